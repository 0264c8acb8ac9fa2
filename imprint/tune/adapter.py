"""The folder that carries what was tuned: tensors and a description that needs nothing else, and the original's file or peft's."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imprint.errors import UserError
from imprint.files import atomic_folder, find_folder, write_json
from imprint.models.checkpoint import PREFIX_PART, load_pickle, quantized_layers, read_tensors
from imprint.models.families import listing
from imprint.models.network import Network
from imprint.tune.lora.files import CONFIG, read_lora, write_lora
from imprint.tune.lora.lora import Lora
from imprint.tune.prefix import PrefixEncoder, prefix_from_tensors

AnyAdapter = PrefixEncoder | Lora

DESCRIPTION = "adapter.json"
TENSORS = "prefix.safetensors"
ORIGINAL = "pytorch_model.bin"
INDEXES = ("pytorch_model.bin.index.json", "model.safetensors.index.json")
FORMAT = 1
PRECISION_LOSS = 0.01
"""What rounding may take from a number; bfloat16 takes 0.004 of it."""


@dataclass(frozen=True)
class PrefixFacts:
    """What is said of a prefix."""

    length: int
    """Prefix length in tokens."""
    projection: bool
    """Whether the prefix goes through two linear layers."""
    start: str
    """Where the prefix started: text, zeros, random, adapter for one that was gone on with, or original for a converted file."""


@dataclass(frozen=True)
class LoraFacts:
    """What is said of a LoRA; what its files are read by stands in peft's own configuration."""

    rank: int
    """Width of the thin matrices as they are saved: twice the recipe's, where the start was a part of the weight."""
    targets: tuple[str, ...]
    """The linears it stands on, by the ends of their names."""
    start: str
    """Where it started, or adapter for one that was gone on with, or peft for a folder that is not ours."""


FACTS: dict[Literal["prefix", "lora"], type[PrefixFacts | LoraFacts]] = {"prefix": PrefixFacts, "lora": LoraFacts}
"""Method -> what is said of it."""


@dataclass(frozen=True)
class Description:
    """What adapter.json says; the facts stand beside the rest in the file."""

    base: str
    """Folder of the base as the run named it."""
    base_fingerprint: list[float]
    """One number for each of the base's weights, by which it is recognised."""
    facts: PrefixFacts | LoraFacts
    """What is particular to the method."""
    template: str
    """How a question becomes a prompt."""
    step: int = 0
    """Training steps behind it."""
    scores: dict[str, float] = field(default_factory=dict)
    """Evaluation loss and whatever else was measured."""
    format: int = FORMAT
    """Version of this file."""

    @property
    def method(self) -> Literal["prefix", "lora"]:
        """How it was tuned."""
        return next(method for method, facts in FACTS.items() if isinstance(self.facts, facts))

    def told(self, place: str) -> str:
        """The adapter at a place in a few words."""
        step = f", step {self.step}" if self.step else ""
        if isinstance(self.facts, PrefixFacts):
            return f"prefix 前缀 {place} ({self.facts.length} tokens{step})"
        return f"LoRA {place} (rank {self.facts.rank} on {', '.join(self.facts.targets)}{step})"


def fingerprint(network: Network) -> list[float]:
    """One number for each weight: the largest magnitude in its first row, which every precision keeps; a hash would change with it.

    A quantised weight counts as the numbers it stands for: its largest integer times its scale is the largest number it was made from.
    """
    first = {name: parameter[:1] for name, parameter in network.named_parameters() if parameter.dim() > 1}
    first |= {name: layer.dequantize(torch.float32, slice(1)) for name, layer in quantized_layers(network).items()}
    vectors = {name: parameter for name, parameter in network.named_parameters() if parameter.dim() == 1}
    largest = [tensor.abs().max().float() for _, tensor in (*sorted(first.items()), *sorted(vectors.items()))]
    return [round(float(number), 6) for number in torch.stack(largest).cpu()]


def same_base(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two fingerprints are of the same base, held at whatever precision."""
    return len(one) == len(other) and all(
        abs(a - b) <= PRECISION_LOSS * max(abs(a), abs(b)) + 1e-5 for a, b in zip(one, other, strict=True)
    )


def save_adapter(folder: Path, adapter: AnyAdapter, description: Description, *, original: bool = False) -> None:
    """Write the adapter folder, complete or not at all; a prefix with `original` also as the original's pytorch_model.bin."""
    told = asdict(description)
    with atomic_folder(folder) as part:
        if isinstance(adapter, Lora):
            write_lora(part, adapter, description.base)
        else:
            tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in adapter.named_tensors().items()}
            save_file(tensors, part / TENSORS, {"format": "pt"})
            if original:
                torch.save(tensors, part / ORIGINAL)
        write_json(part / DESCRIPTION, {"method": description.method, **told.pop("facts"), **told})


def load_adapter(path: Path, network: Network) -> tuple[AnyAdapter, Description]:
    """The adapter at `path`; a LoRA is on the network from then on.

    It is one of our folders, a LoRA folder of peft, an original `.bin` file of any name, or a folder with the original's pytorch_model.bin.
    """
    folder = find_folder(path)
    if folder is not None and (folder / DESCRIPTION).is_file():
        return _load_own(folder, network)
    if folder is not None and (folder / CONFIG).is_file():
        return _load_foreign(folder, network)
    if folder is not None and holds_all_weights(folder):
        shards = {name: tensor for name, tensor in read_tensors(folder) if PREFIX_PART in name}
        return _described(prefix_from_tensors(shards, network, str(folder)), network)
    if folder is not None and not (folder / ORIGINAL).is_file():
        raise UserError(
            f"{path}: holds no adapter; found {listing(folder)}. Allowed: {DESCRIPTION} with {TENSORS}, peft's {CONFIG} with its tensors, "
            f"or the original's {ORIGINAL}."
        )
    file = path if folder is None else folder / ORIGINAL
    if not file.is_file():
        raise UserError(f"{path}: there is no such file or folder. Give an adapter folder, a run folder's adapter/, or a prefix .bin file.")
    return _described(prefix_from_tensors(load_pickle(file), network, str(file)), network)


def holds_all_weights(folder: Path) -> bool:
    """Whether a folder is a checkpoint of all weights in a form that is not one `.bin` file; the original saved a prefix so at first."""
    return any((folder / name).is_file() for name in (*INDEXES, "model.safetensors"))


def _described(encoder: PrefixEncoder, network: Network) -> tuple[PrefixEncoder, Description]:
    """An original prefix, which says nothing of itself, with what can be said of it."""
    return encoder, Description("", fingerprint(network), facts_of(encoder, "original"), "chatglm")


def _load_foreign(folder: Path, network: Network) -> tuple[Lora, Description]:
    """A LoRA folder of peft, which says nothing of its base that could be trusted."""
    base = fingerprint(network)
    lora = read_lora(folder, network)
    return lora, Description("", base, facts_of(lora, "peft"), "chatglm")


def facts_of(adapter: AnyAdapter, start: str) -> PrefixFacts | LoraFacts:
    """What is said of an adapter as it will be saved."""
    if isinstance(adapter, PrefixEncoder):
        return PrefixFacts(adapter.shape.length, adapter.shape.projection, start)
    with adapter.off():
        return LoraFacts(adapter.result()[0].rank, tuple(adapter.shape.names(adapter.network)), start)


def _load_own(folder: Path, network: Network) -> tuple[AnyAdapter, Description]:
    description = read_description(folder)
    if not same_base(description.base_fingerprint, fingerprint(network)):
        raise UserError(
            f"{folder}: was tuned on another base, {description.base!r}: the fingerprints differ. "
            "Load it together with the base it was trained on."
        )
    if isinstance(description.facts, LoraFacts):
        return read_lora(folder, network), description
    try:
        tensors: dict[str, Tensor] = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / TENSORS}: cannot be read ({error}). Copy the adapter folder again, whole.") from error
    return prefix_from_tensors(tensors, network, str(folder / TENSORS)), description


def read_description(folder: Path) -> Description:
    """What a folder's adapter.json says."""
    path = folder / DESCRIPTION
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.get("format") != FORMAT:
            raise UserError(
                f'{path}: "format" is {told.get("format")!r}, this version reads {FORMAT}. Use the version of Imprint that wrote it.'
            )
        method = told.pop("method")
        if method not in FACTS:
            raise UserError(f'{path}: "method" is {method!r}, this version loads adapters of the methods {", ".join(FACTS)} only.')
        numbers = told["base_fingerprint"]
        if not isinstance(numbers, list) or not all(isinstance(number, float | int) and not isinstance(number, bool) for number in numbers):
            raise TypeError('"base_fingerprint" must be a list of numbers')
        names = [one.name for one in fields(FACTS[method])]
        return Description(facts=FACTS[method](**{name: told.pop(name) for name in names}), **told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{path}: is not the description of an adapter ({error}). Copy the adapter folder again, whole.") from error
