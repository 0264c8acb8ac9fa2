"""What the engine trains: a network and the part of it, or beside it, that learns; the method is a value."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from imprint.errors import UserError
from imprint.models.attention import Prefix
from imprint.models.checkpoint import save_network
from imprint.models.loss import target_loss
from imprint.models.network import Network
from imprint.pack import Pack
from imprint.tokenizers import Tokenizer
from imprint.tune.adapter import AnyAdapter, Description, facts_of, fingerprint, load_adapter, save_adapter
from imprint.tune.full import unfreeze
from imprint.tune.lora.lora import UP, Lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import shape_for, targets_of
from imprint.tune.prefix import LENGTH, PrefixEncoder, PrefixShape, start_prefix
from imprint.tune.section import AnySection, FullSection, PrefixSection


class Tuner(nn.Module):
    """A frozen network with a prefix or a LoRA that learns, or a network that learns as a whole."""

    def __init__(self, network: Network, section: AnySection, adapter: AnyAdapter | None, *, checkpointing: bool) -> None:
        super().__init__()
        self.network = network
        self.encoder = adapter if isinstance(adapter, PrefixEncoder) else None
        self.lora = adapter if isinstance(adapter, Lora) else None
        self.section = section
        self.checkpointing = checkpointing

    @property
    def adapter(self) -> AnyAdapter | None:
        """What learns beside the network; None where the network itself does."""
        return self.encoder or self.lora

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """As every module; and the LoRA learns even where the network keeps all in it as in use."""
        super().train(mode)
        if self.lora is not None:
            self.lora.train(mode=mode)
        return self

    def forward(self, pack: Pack) -> Tensor:
        """Summed cross-entropy of the pack's targets, with the prefix's dropout while training."""
        dropout = self.section.prefix_dropout if self.training and isinstance(self.section, PrefixSection) else 0.0
        hidden = self.network(pack, prefix=self.prefix(dropout=dropout), checkpointing=self.checkpointing and self.training)
        return target_loss(hidden[pack.targets], self.network.head_weight, pack.labels)

    def prefix(self, *, dropout: float = 0.0) -> Prefix | None:
        """What generation needs beside the network: the prefix as it stands, or nothing."""
        return None if self.encoder is None else self.encoder.prefix(self.network.dtype, dropout=dropout)

    def base(self) -> AbstractContextManager[None]:
        """Inside this block the network is the base with the base's names, unless it is the network itself that learns."""
        return nullcontext() if self.lora is None else self.lora.off()

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, under the original's names, or peft's."""
        if self.lora is not None:
            return self.lora.trained()
        return dict(self.network.named_parameters()) if self.encoder is None else self.encoder.named_tensors()

    def rate_ratios(self) -> dict[str, float]:
        """By what the learning rate of a parameter is multiplied, where that is not 1."""
        ratio = self.section.plus_ratio if isinstance(self.section, LoraSection) else 1.0
        return {name: ratio for name in self.trained() if name.endswith(UP)} if ratio != 1 else {}

    def save_whole(self, folder: Path, base_folder: Path, gather: Callable[[Tensor], Tensor], *, writes: bool) -> None:
        """Write a network that learns as a whole and is shared between processes, which all call this; one of them `writes`."""
        save_network(self.network, base_folder, folder, gather=gather, writes=writes)

    def save(self, folder: Path, *, base: str, base_folder: Path, template: str, step: int, scores: dict[str, float]) -> None:
        """Write what was learned: an adapter folder, or a model folder in the official layout."""
        adapter = self.adapter
        if adapter is None or isinstance(self.section, FullSection):
            save_network(self.network, base_folder, folder)
            return
        facts = facts_of(adapter, self.section.start if self.section.adapter is None else "adapter")
        with self.base():
            description = Description(base, fingerprint(self.network), facts, template, step, scores)
        original = isinstance(self.section, PrefixSection) and self.section.original_file
        save_adapter(folder, adapter, description, original=original)


def start_tuner(network: Network, section: AnySection, tokenizer: Tokenizer, *, checkpointing: bool) -> Tuner:
    """The network made ready for a method.

    A prefix begins as an adapter left it, as the base's reading of a text, or as numbers; a LoRA as an adapter left it, or as its start
    says. Raises UserError where an adapter is another one than the recipe says.
    """
    if isinstance(section, FullSection):
        unfreeze(network)
        return Tuner(network, section, None, checkpointing=checkpointing)
    if section.adapter is not None:
        return Tuner(network, section, _taken_up(section, section.adapter, network), checkpointing=checkpointing)
    if isinstance(section, LoraSection):
        lora = Lora(network, shape_for(section, network), init=section.init)
        lora.drop(section.dropout)
        return Tuner(network, section, lora, checkpointing=checkpointing)
    shape = PrefixShape.of(network, section.length or LENGTH, projection=bool(section.projection))
    text_ids = tokenizer.encode(section.text) if section.start == "text" else []
    return Tuner(network, section, start_prefix(network, shape, section.start, text_ids), checkpointing=checkpointing)


def _taken_up(section: PrefixSection | LoraSection, adapter: Path, network: Network) -> AnyAdapter:
    """An adapter of the section's method, which must be as large as the recipe says, where it says so."""
    taken, description = load_adapter(adapter, network)
    if description.method != section.method:
        raise UserError(
            f"tune.adapter: {adapter} is a {description.method}, and tune.method is {section.method}. Give one that was tuned so, or set "
            f"tune.method={description.method}."
        )
    for knob in ("length", "projection") if isinstance(taken, PrefixEncoder) else ("rank", "alpha", "rslora", "dora", "targets"):
        wanted, found = getattr(section, knob), getattr(taken.shape, knob)
        if knob == "targets" and wanted is not None and isinstance(taken, Lora):
            with taken.off():
                wanted = targets_of(wanted, network)
        if wanted is not None and wanted != found:
            said, is_so = (str(value).lower() for value in (getattr(section, knob), found))
            raise UserError(f"tune.{knob}: {said}, but it is {is_so} in {adapter}, which tune.adapter names. Leave tune.{knob} out.")
    if isinstance(taken, Lora) and isinstance(section, LoraSection):
        taken.drop(section.dropout)
    return taken
