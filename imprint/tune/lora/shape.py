"""The linears that a LoRA adapts, and its ranks, resolved from a recipe's `tune` section for one network."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from imprint.messages import Bilingual, UserError
from imprint.models.network import Network
from imprint.quant.linear import QuantizedLinear
from imprint.tune.lora.section import DEFAULT_RANK, NEEDS_PLAIN_WEIGHT, LoraSection
from imprint.tune.lora.targets import refuse_head

AnyLinear = nn.Linear | QuantizedLinear


@dataclass(frozen=True)
class LoraShape:
    """The linears, ranks and scales of a LoRA."""

    rank: int
    """R, except for the linears in `ranks`."""
    alpha: float
    """The product is scaled by alpha / R, or by alpha / sqrt(R)."""
    rslora: bool
    """Whether the scale has sqrt(R)."""
    dora: bool
    """Whether the norms of a weight's rows are trained separately."""
    targets: tuple[str, ...]
    """Full names of the linears, in the network's order."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Linear -> its rank, where it differs."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Linear -> its alpha, where it differs."""

    def doubled(self) -> "LoraShape":
        """The shape with twice the rank and the same scale: room for an initial part that is subtracted."""
        factor = 2**0.5 if self.rslora else 2
        return replace(
            self,
            rank=2 * self.rank,
            alpha=self.alpha * factor,
            ranks={name: 2 * rank for name, rank in self.ranks.items()},
            alphas={name: alpha * factor for name, alpha in self.alphas.items()},
        )

    def short_names(self, network: Network) -> list[str]:
        """The last parts of the targets' names if no other linear ends with them, else the full names."""
        ends = {name.rpartition(".")[2] for name in self.targets}
        matching = {name for name in linears_of(network) if name.rpartition(".")[2] in ends}
        return sorted(ends) if matching == set(self.targets) else list(self.targets)


def linears_of(network: Network) -> dict[str, AnyLinear]:
    """Every linear of a network without LoRA, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AnyLinear)}


def shape_from_section(section: LoraSection, network: Network) -> LoraShape:
    """The shape of a new LoRA. Raises UserError if the network has no such linear, or if they are quantized and must not be."""
    linears = linears_of(network)
    targets = resolve_targets(section.targets or "attention", network)
    rank = section.rank or DEFAULT_RANK
    shape = LoraShape(rank, section.alpha or 2.0 * rank, bool(section.rslora), bool(section.dora), targets)
    refuse_quantized(shape, linears, section.start)
    refuse_head(targets, network, "tune.targets")
    for name in targets:
        linear = linears[name]
        if rank > min(linear.in_features, linear.out_features):
            raise UserError(
                Bilingual(
                    f"tune.rank: {rank} is more than {name} has: {linear.in_features} inputs, {linear.out_features} outputs. Use a smaller "
                    "one.",
                    f"tune.rank 为 {rank}，超过 {name} 的大小（{linear.in_features} × {linear.out_features}）：请改小。",
                )
            )
    return shape


def refuse_quantized(shape: LoraShape, linears: Mapping[str, AnyLinear], start: str) -> None:
    """Raise UserError if DoRA or an initialization needs a plain weight and the linear is quantized."""
    quantized = next((linear.weight_format for name in shape.targets if isinstance(linear := linears[name], QuantizedLinear)), None)
    knob = "tune.dora" if shape.dora else f'tune.start "{start}"' if start in NEEDS_PLAIN_WEIGHT else None
    if quantized and knob:
        raise UserError(
            Bilingual(
                f"{knob}: needs a plain weight, but this base is quantized to {quantized.label.english}. Use a base that is not quantized "
                f"(model.quantize=null), or {'leave tune.dora out' if shape.dora else 'tune.start=standard'}.",
                f"{knob} 需要未量化的底座；请去掉量化，或改用普通 LoRA。",
            )
        )


def resolve_targets(targets: str | tuple[str, ...], network: Network) -> tuple[str, ...]:
    """The full names of the linears that a recipe's `targets` name. Raises UserError for a name that matches none."""
    linears = linears_of(network)
    blocks = [name for name in linears if any(part.isdigit() for part in name.split("."))]
    if targets == "all":
        return tuple(blocks)
    ends = network.lora_targets if isinstance(targets, str) else targets
    for end in ends:
        if not any(_matches(name, end) for name in linears):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in blocks}))
            raise UserError(
                Bilingual(
                    f'tune.targets: no linear of this base is called "{end}". It has {known}.',
                    f"tune.targets：该底座没有名为 {end} 的线性层；它有 {known}。",
                )
            )
    return tuple(name for name in linears if any(_matches(name, end) for end in ends))


def _matches(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
