"""A LoRA on a small network, rows for it, and a few steps of training."""

from pathlib import Path

import torch
from torch import Tensor

import imprint
from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.models.network import Network
from imprint.pack import Pack, pack
from imprint.quant.formats import FORMATS
from imprint.tune.lora.lora import Lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.tuner import Tuner, build_tuner
from tests.cases import Case, ends
from tests.inference.reference import generate_ids

PRECISIONS = ("float32", "bfloat16", "float16", "INT8", "INT4")
QKV = "transformer.layers.0.attention.query_key_value"


def base(precision: str = "float32") -> Network:
    """The golden base, its weights large enough that a greedy answer depends on them."""
    quantize = next((one.name for one in FORMATS if one.title == precision.lower()), None)
    dtype = "float32" if quantize else precision
    return imprint.load(Case("chatglm1-base").folder, dtype=dtype, quantize=quantize, device="cpu").network


def tuner(network: Network, *, checkpointing: bool = False, seed: int = 5, section: LoraSection | None = None) -> Tuner:
    """A LoRA of rank 4 on a network, or by the section."""
    torch.manual_seed(seed)
    return build_tuner(network, section or LoraSection(method="lora", rank=4), no_text, checkpointing=checkpointing)


def lora_of(one: Tuner) -> Lora:
    """The LoRA of a tuner."""
    assert isinstance(one.adapter, Lora)
    return one.adapter


def scattered(lora: Lora, *, seed: int = 1, size: float = 0.3) -> Lora:
    """The LoRA with noise in its trained parameters, so that it has an effect."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in lora.trainable_parameters().values():
            parameter.add_(torch.randn_like(parameter) * size)
    return lora


def golden_batch(network: Network) -> Pack:
    """The golden rows with their labels."""
    case = Case("chatglm1-base")
    return pack(case.rows, network, ends(case.expected["labels"], case.rows))


def gradients(one: Tuner, batch: Pack) -> dict[str, Tensor]:
    """The gradients of the trained parameters."""
    one.train()(batch).backward()
    grads = {name: parameter.grad for name, parameter in one.trainable_parameters().items()}
    return {name: grad for name, grad in grads.items() if grad is not None}


def losses(one: Tuner, batch: Pack, steps: int, *, rate: float = 0.01) -> list[float]:
    """The losses before each of `steps` AdamW steps."""
    engine = Engine.start(
        one,
        one.trainable_parameters(),
        OptimizerSection(learning_rate=rate, warmup_steps=0, schedule="constant"),
        steps,
        device=torch.device("cpu"),
        lr_ratios=one.lr_ratios(),
    )
    values = []
    for step in range(1, steps + 1):
        loss = one.train()(batch) / batch.target_tokens
        engine.backward(loss, last=True)
        values.append(float(loss.detach()))
        engine.update(step, apply=True)
    return values


def greedy(network: Network) -> list[list[int]]:
    """Greedy answers to the golden prompts."""
    return generate_ids(network, Case("chatglm1-base").prompts, 12)


def saved(one: Tuner, folder: Path) -> Path:
    """Save a tuner; returns the adapter folder."""
    one.save(folder, base="tiny", base_folder=Case("chatglm1-base").folder, template="chatglm", step=3, scores={"eval_loss": 1.5})
    return folder


def no_text(text: str) -> list[int]:
    """In place of a tokenizer where nothing may be encoded."""
    raise AssertionError(text)
