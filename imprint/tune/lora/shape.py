"""Which linears a LoRA stands on and how large it is: from a recipe's words to the linears of one network."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.models.network import Network
from imprint.quant.linear import QuantizedLinear
from imprint.tune.lora.section import FROM_WEIGHT, RANK, LoraSection

AnyLinear = nn.Linear | QuantizedLinear


@dataclass(frozen=True)
class LoraShape:
    """Everything that decides the sizes of a LoRA's matrices and what their product is multiplied by."""

    rank: int
    """R, where `ranks` says nothing else."""
    alpha: float
    """The product is multiplied by alpha / R, or by alpha / sqrt(R)."""
    rslora: bool
    """Whether it is the root."""
    dora: bool
    """Whether the lengths of a weight's rows are learned apart."""
    targets: tuple[str, ...]
    """Full names of the linears, in the network's order."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Ranks of single linears that have another one."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Alphas of single linears that have another one."""

    def doubled(self) -> "LoraShape":
        """The shape with twice the rank and the same factor before the product: room for what a start took off."""
        factor = 2**0.5 if self.rslora else 2
        return replace(
            self,
            rank=2 * self.rank,
            alpha=self.alpha * factor,
            ranks={name: 2 * rank for name, rank in self.ranks.items()},
            alphas={name: alpha * factor for name, alpha in self.alphas.items()},
        )

    def names(self, network: Network) -> list[str]:
        """The linears by the ends of their names where these say exactly which are meant, else by their full names."""
        ends = {name.rpartition(".")[2] for name in self.targets}
        meant = {name for name in linears(network) if name.rpartition(".")[2] in ends}
        return sorted(ends) if meant == set(self.targets) else list(self.targets)


def linears(network: Network) -> dict[str, AnyLinear]:
    """Every linear of a network that has no LoRA on it, by its name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AnyLinear)}


def shape_for(section: LoraSection, network: Network) -> LoraShape:
    """A new LoRA as the recipe wants it. Raises UserError where the network has no such linear, or they are quantised and may not be."""
    found = linears(network)
    targets = targets_of(section.targets or "attention", network)
    rank = section.rank or RANK
    shape = LoraShape(rank, section.alpha or 2.0 * rank, bool(section.rslora), bool(section.dora), targets)
    refuse_quantized(shape, found, section.start)
    for name in targets:
        linear = found[name]
        if rank > min(linear.in_features, linear.out_features):
            raise UserError(
                f"tune.rank: {rank} is more than {name} has: {linear.in_features} inputs, {linear.out_features} outputs. Take a smaller "
                "one."
            )
    return shape


def refuse_quantized(shape: LoraShape, found: Mapping[str, AnyLinear], start: str) -> None:
    """Raise UserError where a weight must be known as numbers and is held as integers."""
    bits = next((linear.bits for name in shape.targets if isinstance(linear := found[name], QuantizedLinear)), None)
    wanted = "tune.dora" if shape.dora else f'tune.start "{start}"' if start in FROM_WEIGHT else None
    if bits and wanted:
        raise UserError(
            Bilingual(
                f"{wanted}: works on the weight as numbers, but this base holds it in {bits} bits. Take a base that is not quantised "
                f"(model.quantize=null), or {'leave tune.dora out' if shape.dora else 'tune.start=standard'}.",
                f"{wanted} 需要未量化的底座；请去掉量化，或改用普通 LoRA。",
            )
        )


def targets_of(wanted: str | tuple[str, ...], network: Network) -> tuple[str, ...]:
    """The full names of the linears that a recipe means. Raises UserError for a name that none has."""
    found = linears(network)
    blocks = [name for name in found if any(part.isdigit() for part in name.split("."))]
    if wanted == "all":
        return tuple(blocks)
    ends = network.lora_targets if isinstance(wanted, str) else wanted
    for end in ends:
        if not any(_ends(name, end) for name in found):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in blocks}))
            raise UserError(f'tune.targets: no linear of this base is called "{end}". It has {known}.')
    return tuple(name for name in found if any(_ends(name, end) for end in ends))


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
