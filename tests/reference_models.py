"""Tiny random models of transformers' own classes, and what they compute: the reference for networks that have no golden case."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from imprint.model import Model
from imprint.models.attention import Prefix
from imprint.models.loss import target_loss
from imprint.models.network import Network
from imprint.pack import IGNORE_INDEX, pack

ROWS = [[3, 4, 5, 6, 7, 8, 9, 10, 11], [12, 13], [7, 7, 7, 14]]
LABELS = [[-100, -100, 5, 6, -100, 8, 9, 10, 11], [-100, 13], [7, 7, -100, 14]]
"""What both are given: rows of several lengths, and what is scored of them."""
FIELDS: dict[str, object] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Of a small network, as most kinds call them."""
NORMS = ("norm.weight", "ln_f.weight")
PAD = 0


def random_model(kind: str, fields: dict[str, object], *, seed: int = 0, std: float = 0.3) -> Any:
    """A random model of a `model_type`, its weights large enough that every part of it matters to the result."""
    config = AutoConfig.for_model(kind, **fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        norm = name.endswith(NORMS)
        torch.nn.init.normal_(parameter, mean=float(norm), std=0.1 if norm or parameter.dim() < 2 else std)
    return model


def saved(model: Any, folder: Path, *, shard: str = "1GB") -> Path:
    """The model as transformers writes it."""
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def past(model: Any, prefix: Prefix | None) -> dict[str, object]:
    """A prefix as the keys and values that transformers takes for the tokens before a row."""
    if prefix is None:
        return {}
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix):
        cache.update(keys.transpose(0, 1)[None], values.transpose(0, 1)[None], layer)
    return {("cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"): cache}


def run(model: Any, row: list[int], prefix: Prefix | None = None, **more: object) -> Any:
    """One row through the model, its first token at position 0 whatever stands before it."""
    positions = {"position_ids": torch.arange(len(row))[None]} if "position_ids" in inspect.signature(model.forward).parameters else {}
    ids = torch.tensor([row])
    return model(input_ids=ids, use_cache=prefix is not None, **positions, **past(model, prefix), **more)


def logits(model: Any, row: list[int], prefix: Prefix | None = None) -> Tensor:
    """(T, V)."""
    found: Tensor = run(model, row, prefix).logits[0]
    return found


def loss(model: Any, rows: list[list[int]], labels: list[list[int]], prefix: Prefix | None = None) -> Tensor:
    """Mean cross-entropy of all scored tokens, each predicted from what stands before it."""
    total = torch.zeros(())
    for row, wanted in zip(rows, labels, strict=True):
        total = total + torch.nn.functional.cross_entropy(
            logits(model, row, prefix)[:-1], torch.tensor(wanted[1:]), ignore_index=IGNORE_INDEX, reduction="sum"
        )
    return total / sum(label != IGNORE_INDEX for wanted in labels for label in wanted[1:])


@torch.no_grad()
def greedy(model: Any, row: list[int], count: int) -> list[int]:
    """New ids of `generate`, up to and without the end."""
    ids = torch.tensor([row])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=PAD)
    new: list[int] = out[0, len(row) :].tolist()
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return new[: next((place for place, token in enumerate(new) if token in ends), len(new))]


@torch.no_grad()
def padded_logits(model: Any, rows: list[list[int]]) -> list[Tensor]:
    """Logits (T, V) of rows that stand in one batch, padded at the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    seen = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    named = {"position_ids": positions} if "position_ids" in inspect.signature(model.forward).parameters else {}
    found = model(input_ids=ids, attention_mask=seen, **named).logits
    return [found[index, longest - len(row) :] for index, row in enumerate(rows)]


def our_logits(network: Network, rows: list[list[int]]) -> list[Tensor]:
    """(T, V) of each row by a network of ours, all rows in one pack."""
    return Model(network, None, "ours").logits(rows)


def our_loss(network: Network, prefix: Prefix | None = None, *, checkpointing: bool = False) -> Tensor:
    """What `loss` is there, of ROWS and LABELS."""
    batch = pack(ROWS, network, LABELS)
    hidden = network(batch, prefix=prefix, checkpointing=checkpointing)
    return target_loss(hidden[batch.targets], network.head_weight, batch.labels, network.logit_cap) / batch.target_tokens


def prefix_of(network: Network) -> Prefix:
    """A random prefix that fits a network."""
    return draw_prefix(layers=network.shape.num_layers, heads=network.shape.num_kv_heads, head_size=network.shape.head_dim)


def draw_prefix(*, layers: int, heads: int, head_size: int, length: int = 5, seed: int = 1) -> Prefix:
    """Random keys and values that take a gradient."""
    torch.manual_seed(seed)
    shape = (length, heads, head_size)
    return [(torch.randn(shape).requires_grad_(), torch.randn(shape).requires_grad_()) for _ in range(layers)]
