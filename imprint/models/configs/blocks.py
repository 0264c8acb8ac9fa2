"""The configs of the blocks of a network, which differ where a weight format does."""

from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, TypeVar

from imprint.quant.weight_format import WeightFormat


class BlocksConfig(Protocol):
    """A frozen dataclass with these two fields."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def num_layers(self) -> int:
        """Number of blocks."""

    @property
    def weight_format(self) -> WeightFormat | None:
        """The format of their weights; None if they are not quantized."""


Config = TypeVar("Config", bound=BlocksConfig)


def block_configs(config: Config) -> list[Config]:
    """The config of each block, in order: that of the network, but for the weight format of the block."""
    whole, count = config.weight_format, config.num_layers
    return [replace(config, weight_format=whole and whole.for_block(index, count)) for index in range(count)]
