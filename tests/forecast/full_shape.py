"""ChatGLM-6B's shape, and rows as long as those of the measurements in docs/performance.md."""

import random
from functools import partial

import torch

from imprint.forecast.dry_run import Texts
from imprint.forecast.estimate import Plan
from imprint.models.chatglm import ChatGLM
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.models.network import Network
from imprint.quant.formats import find_format
from imprint.quant.names import FormatName
from imprint.tokenizers import EDITIONS


def _network(dtype: torch.dtype, quantize: FormatName | None) -> Network:
    return ChatGLM(
        ChatGLMConfig(
            vocab_size=130528,
            hidden_size=4096,
            num_layers=28,
            num_attention_heads=32,
            inner_hidden_size=16384,
            layernorm_epsilon=1e-5,
            max_sequence_length=2048,
            special_ids=EDITIONS[130528],
            weight_format=None if quantize is None else find_format(quantize),
        )
    ).to(dtype)


def rows(count: int, seed: int = 0) -> list[Texts]:
    """Rows of 24 to 59 prompt tokens and 64 scored ones."""
    rng = random.Random(seed)
    lengths = sorted((rng.randint(24, 59) for _ in range(count)), reverse=True)
    return [[([7] * (length + 65), [-100] * (length + 1) + [7] * 64)] for length in lengths]


def plan(count: int = 16, dtype: torch.dtype = torch.bfloat16) -> Plan:
    """A step of `count` rows on one device."""
    longest = max((rows(count, seed) for seed in range(20)), key=lambda batch: sum(len(row[0][0]) for row in batch))
    return Plan(partial(_network, dtype), longest, 106.5)
