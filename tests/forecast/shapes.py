"""Networks of a few families without a folder: small, but with sizes in which no rounding hides a tensor."""

import random
from collections.abc import Callable
from pathlib import Path

import torch

from imprint.forecast.dry_run import Texts
from imprint.models.bloom import Bloom
from imprint.models.chatglm import ChatGLM
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.configs.bloom import BloomConfig
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.models.families import build_network
from imprint.models.network import Network
from imprint.quant.weight_format import WeightFormat
from imprint.tokenizers import EDITIONS

WIDTH, DEPTH, VOCABULARY = 128, 6, 1000


def chatglm(weight_format: WeightFormat | None = None, dtype: torch.dtype = torch.float32) -> Network:
    """ChatGLM-6B's architecture."""
    return ChatGLM(
        ChatGLMConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_layers=DEPTH,
            num_attention_heads=4,
            inner_hidden_size=4 * WIDTH,
            layernorm_epsilon=1e-5,
            max_sequence_length=512,
            special_ids=EDITIONS[130528],
            weight_format=weight_format,
        )
    ).to(dtype)


def chatglm2(weight_format: WeightFormat | None = None, dtype: torch.dtype = torch.float32) -> Network:
    """ChatGLM2-6B's architecture: grouped queries, RMSNorm, SwiGLU."""
    return ChatGLM2(
        ChatGLM2Config(
            padded_vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_layers=DEPTH,
            num_attention_heads=4,
            multi_query_group_num=2,
            ffn_hidden_size=3 * WIDTH,
            kv_channels=32,
            seq_length=512,
            layernorm_epsilon=1e-5,
            add_qkv_bias=True,
            apply_query_key_layer_scaling=True,
            rope_theta=1e4,
            rope_factor=1.0,
            stop_ids=frozenset({2}),
            weight_format=weight_format,
        )
    ).to(dtype)


def bloom(weight_format: WeightFormat | None = None, dtype: torch.dtype = torch.float32) -> Network:
    """BLOOM's architecture: ALiBi."""
    fields = {"model_type": "bloom", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": DEPTH, "n_head": 4, "eos_token_id": 2}
    config = BloomConfig.read(fields)
    assert weight_format is None
    return Bloom(config).to(dtype)


def qwen3(weight_format: WeightFormat | None = None, dtype: torch.dtype = torch.float32) -> Network:
    """A model of transformers."""
    fields = {
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
    }
    assert weight_format is None
    return build_network(fields, Path()).to(dtype)


FAMILIES: dict[str, Callable[..., Network]] = {"ChatGLM-6B": chatglm, "ChatGLM2-6B": chatglm2, "BLOOM": bloom, "Qwen3": qwen3}


def texts(count: int, seed: int = 0) -> Texts:
    """Rows of 40 to 70 tokens, of which 30 are scored, longest first."""
    rng = random.Random(seed)
    rows = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(40, 70))] for _ in range(count)]
    return [(ids, [-100] * (len(ids) - 30) + ids[-30:]) for ids in sorted(rows, key=len, reverse=True)]
