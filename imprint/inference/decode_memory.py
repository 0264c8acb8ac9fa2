"""What a network keeps from one Decoder to the next: the key-value cache and the captured steps over it."""

import gc
from typing import Any

import torch

from imprint.inference.step_graphs import StepGraphs, bucket_of, recorder_for, rounded_capacity
from imprint.models.cache import KVCache
from imprint.models.network import Network

KEPT_SHARE = 1 / 8
"""Largest share of a GPU's memory that a cache may have to be kept."""


class DecodeMemory:
    """A cache, and where steps can be repeated, the graphs over it; one Decoder has it at a time."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.cache: KVCache = network.new_cache(0, 0)
        recorder = recorder_for(network)
        self.graphs = None if recorder is None else StepGraphs(network, self.cache, recorder)
        self._state = _state(network)

    @property
    def fits(self) -> bool:
        """Whether the network is what the graphs were captured of."""
        return self._state == _state(self.network) and self.graphs is not None and not self.graphs.failed

    def reserve(self, slots: int, capacity: int) -> None:
        """Make room for this many sequences of this many tokens, and for the rows that fill up a bucket."""
        room = self.room_after(slots, capacity)
        if room != (self.cache.slots, self.cache.capacity):
            self.cache.resize(*room)

    def shrink(self, slots: int, capacity: int) -> None:
        """Keep no more room than so many sequences of so many tokens need; the graphs are made anew."""
        room = self.least_room(slots, capacity)
        if room != (self.cache.slots, self.cache.capacity):
            self.cache.resize(*room)

    def room_after(self, slots: int, capacity: int) -> tuple[int, int]:
        """Slots and capacity of the cache after `reserve`, which never shrinks it."""
        cache = self.cache
        if slots <= cache.slots and capacity <= cache.capacity:
            return cache.slots, cache.capacity
        slots, capacity = self.least_room(slots, capacity)
        return max(slots, cache.slots), max(capacity, cache.capacity)

    def least_room(self, slots: int, capacity: int) -> tuple[int, int]:
        """Slots and capacity of a cache that is made for so many sequences of so many tokens."""
        return (slots, capacity) if self.graphs is None else (bucket_of(slots), rounded_capacity(capacity))

    @property
    def bytes(self) -> int:
        """Size of the cache."""
        return sum(tensor.nbytes for tensor in (*self.cache.keys, *self.cache.values))


def take_memory(network: Network) -> DecodeMemory:
    """The memory that the network has kept, if nobody else has it and it still fits; else a new one."""
    kept, network.decode_memory = network.decode_memory, None
    return kept if isinstance(kept, DecodeMemory) and kept.fits else DecodeMemory(network)


def give_back(memory: DecodeMemory) -> None:
    """Keep a memory for the next Decoder, if it saves work and is not too large; training and moving a network drop it."""
    network = memory.network
    if memory.graphs is None or network.training or not memory.fits:
        return
    device = network.device
    if device.type == "cuda" and memory.bytes > KEPT_SHARE * torch.cuda.get_device_properties(device).total_memory:
        return
    network.decode_memory = memory


def drop_memory(network: Network) -> None:
    """Free what decoding has taken and nobody holds any more, such as after an error in a step."""
    network.decode_memory = None
    gc.collect()
    if network.device.type == "cuda":
        torch.cuda.empty_cache()


def _state(network: Network) -> tuple[Any, ...]:
    """What graphs depend on: modules, their hooks, and where their tensors are."""
    modules = tuple((id(module), len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules())
    tensors = tuple((tensor.data_ptr(), tensor.dtype) for tensor in (*network.parameters(), *network.buffers()))
    return network.revision, network.attention_backends, network.replays_steps, modules, tensors
