"""A network and its trainable parameters: those of an adapter, or the network's own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from imprint.messages import Bilingual, UserError
from imprint.models.attention import Prefix
from imprint.models.checkpoint import save_network
from imprint.models.network import Network
from imprint.pack import Pack
from imprint.quant.linear import prepare_backward
from imprint.tune.adapter import Adapter, AdapterMetadata
from imprint.tune.adapter_folder import load_adapter, save_adapter
from imprint.tune.fingerprint import fingerprint
from imprint.tune.full import unfreeze
from imprint.tune.lora.lora import LORA_B, Lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import resolve_targets, shape_from_section
from imprint.tune.prefix import DEFAULT_LENGTH, PrefixShape, init_prefix
from imprint.tune.section import AnySection, FullSection, PrefixSection

Encode = Callable[[str], Sequence[int]]
"""A text -> its token ids."""


class Tuner(nn.Module):
    """A frozen network with a trainable adapter, or a trainable network without one."""

    def __init__(self, network: Network, section: AnySection, adapter: Adapter | None, *, checkpointing: bool) -> None:
        super().__init__()
        self.network = network
        self.adapter = adapter
        self.section = section
        self.checkpointing = checkpointing
        if adapter is not None:
            adapter.set_dropout(section.dropout)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Set the mode of all modules, the adapter's too, which a network that stays in evaluation mode would not reach."""
        super().train(mode)
        if self.adapter is not None:
            self.adapter.set_training(training=mode)
        return self

    def forward(self, pack: Pack) -> Tensor:
        """Sum of the cross-entropies of the pack's targets, each times its weight."""
        prefix = None if self.adapter is None else self.adapter.prefix(self.network.dtype, training=self.training)
        hidden = self.network(pack, prefix=prefix, checkpointing=self.checkpointing and self.training)
        return self.network.target_loss(hidden[pack.targets], pack.labels, pack.weights)

    def prefix(self) -> Prefix | None:
        """The prefix for generation, without dropout; None without one."""
        return None if self.adapter is None else self.adapter.prefix(self.network.dtype)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Inside this block the network is the base; without an adapter nothing changes."""
        return nullcontext() if self.adapter is None else self.adapter.off()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by their names in the saved file."""
        return dict(self.network.named_parameters()) if self.adapter is None else self.adapter.trainable_parameters()

    def lr_ratios(self) -> dict[str, float]:
        """Parameter name -> factor of its learning rate, where that is not 1."""
        ratio = self.section.plus_ratio if isinstance(self.section, LoraSection) else 1.0
        return {name: ratio for name in self.trainable_parameters() if name.endswith(LORA_B)} if ratio != 1 else {}

    def save_sharded(self, folder: Path, base_folder: Path, gather: Callable[[Tensor], Tensor], *, is_main: bool) -> None:
        """Write a fully tuned network that is sharded over processes; collective, and the process with `is_main` writes."""
        save_network(self.network, base_folder, folder, gather=gather, is_main=is_main)

    def save(self, folder: Path, *, base: str, base_folder: Path, template: str, step: int, scores: dict[str, float]) -> None:
        """Write the result: an adapter folder, or for full tuning a model folder in the official layout."""
        if self.adapter is None or isinstance(self.section, FullSection):
            save_network(self.network, base_folder, folder)
            return
        of_method = self.adapter.metadata(self.section.start if self.section.adapter is None else "adapter")
        with self.adapter_off():
            metadata = AdapterMetadata(base, fingerprint(self.network), of_method, template, step, scores)
        original = isinstance(self.section, PrefixSection) and self.section.original_file
        save_adapter(folder, self.adapter, metadata, original=original)


def build_tuner(network: Network, section: AnySection, encode: Encode, *, checkpointing: bool) -> Tuner:
    """Prepare a network for a tuning method, with a new adapter or the one that `tune.adapter` continues.

    Raises UserError where that adapter does not match the recipe.
    """
    adapter: Adapter | None
    if isinstance(section, FullSection):
        unfreeze(network)
        adapter = None
    elif section.adapter is not None:
        adapter = _load_matching(section, section.adapter, network)
    elif isinstance(section, LoraSection):
        adapter = Lora(network, shape_from_section(section, network), init=section.init)
    else:
        shape = PrefixShape.from_network(network, section.length or DEFAULT_LENGTH, projection=bool(section.projection))
        text_ids = encode(section.text) if section.start == "text" else []
        adapter = init_prefix(network, shape, section.start, text_ids)
    prepare_backward(network, network.dtype)
    return Tuner(network, section, adapter, checkpointing=checkpointing)


def _load_matching(section: PrefixSection | LoraSection, path: Path, network: Network) -> Adapter:
    """The adapter to continue. Raises UserError unless it has the section's method and the shapes that the section sets."""
    adapter, metadata = load_adapter(path, network)
    if metadata.method != section.method:
        raise UserError(
            Bilingual(
                f"tune.adapter: {path} is a {metadata.method}, and tune.method is {section.method}. Give an adapter of that method, or "
                f"set tune.method={metadata.method}.",
                f"tune.adapter：该适配器是 {metadata.method}，而 tune.method 为 {section.method}："
                f"请给出同一方法的适配器，或改 tune.method。",
            )
        )
    for knob, actual in adapter.settings().items():
        expected = getattr(section, knob)
        if knob == "targets" and expected is not None:
            with adapter.off():
                expected = resolve_targets(expected, network)
        if expected is not None and expected != actual:
            value, own = (str(value).lower() for value in (getattr(section, knob), actual))
            raise UserError(
                Bilingual(
                    f"tune.{knob}: {value}, but it is {own} in {path}, which tune.adapter names. Leave tune.{knob} out.",
                    f"tune.{knob} 为 {value}，而 tune.adapter 指定的适配器为 {own}：请去掉 tune.{knob}。",
                )
            )
    return adapter
