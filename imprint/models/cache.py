"""The key-value cache of sequences that are being decoded.

Legend: N slots, T packed tokens, G heads of keys and values, S tokens that a slot can hold, D head size.
"""

import torch
from torch import Tensor

from imprint.pack import Pack


class KVCache:
    """Keys and values of up to S tokens in each of a number of slots, one for a sequence; a view has some of the slots."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], length: int = 0) -> None:
        self.keys = keys
        """Of every layer, (N, G, S, D)."""
        self.values = values
        self.length = length
        """Length in tokens of the longest sequence: attention reads no further."""

    @classmethod
    def empty(
        cls, *, layers: int, slots: int, capacity: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> "KVCache":
        """A cache of zeros for `capacity` tokens (S) in each slot."""
        shape = (slots, heads, capacity, head_dim)
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)] for _ in range(2))
        return cls(keys, values)

    @property
    def slots(self) -> int:
        """N."""
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """S."""
        return self.keys[0].shape[2]

    def view(self, first: int, count: int, length: int) -> "KVCache":
        """The slots from `first` on, of which attention reads `length` tokens; it shares their memory."""
        keys, values = ([tensor.narrow(0, first, count) for tensor in tensors] for tensors in (self.keys, self.values))
        return KVCache(keys, values, length)

    def update(self, layer: int, pack: Pack, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the pack's keys and values; returns all keys and values of the layer, (N, G, length, D) each."""
        self.write(layer, pack, key, value)
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]

    def write(self, layer: int, pack: Pack, key: Tensor, value: Tensor) -> None:
        """Write the pack's keys and values (T, G, D) at their offsets."""
        self.keys[layer][pack.seq_ids, :, pack.offsets] = key
        self.values[layer][pack.seq_ids, :, pack.offsets] = value

    def put(self, slot: int, other: "KVCache", length: int) -> None:
        """Copy the first `length` tokens of another cache's first slot into a slot."""
        for target, source in zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True):
            target[slot, :, :length] = source[0, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a slot into another slot."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, slot: int) -> None:
        """Fill a slot with zeros."""
        for tensor in (*self.keys, *self.values):
            tensor[slot] = 0

    def select(self, slots: Tensor) -> None:
        """Replace the first slots by copies of these (K,), in this order; a slot may be repeated."""
        for tensor in (*self.keys, *self.values):
            tensor[: len(slots)] = tensor[slots]

    def resize(self, slots: int, capacity: int) -> None:
        """Have room for so many slots and tokens; of what the cache holds, as much stays as then has room."""
        both = min(slots, self.slots), min(capacity, self.capacity)
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                resized = tensor.new_zeros((slots, tensor.shape[1], capacity, tensor.shape[3]))
                resized[: both[0], :, : both[1]] = tensor[: both[0], :, : both[1]]
                tensors[layer] = resized
