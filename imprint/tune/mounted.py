"""Adapters on one network, by name: requests of one batch use different ones, or none, over one copy of the weights.

`Decoder` (inference/decoder.py) asks for them. Legend: B sequences of a batch, P keys of all prefixes that they use.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError
from imprint.models.attention import NO_ADAPTER, Prefix, RowAdapters
from imprint.models.network import Network
from imprint.tune.adapter import Adapter
from imprint.tune.adapter_folder import load_adapter
from imprint.tune.lora.lora import Lora
from imprint.tune.lora.mounted import MountedLoras
from imprint.tune.peft_files import refuse_broken

OWN = 0
"""The id of the adapter that the model was loaded with."""
BASE_NAME = "base"
"""The name by which a request asks for the base."""


@dataclass(frozen=True)
class JoinedPrefixes:
    """Several prefixes, one after another."""

    adapter_ids: tuple[int, ...]
    """Those that have them."""
    state: tuple[int, ...]
    """What they were made from."""
    pairs: Prefix
    """Keys and values of all of them."""
    owners: Tensor
    """(P,) the id of the adapter whose prefix a key belongs to."""
    offsets: Tensor
    """(P,) distance of each key from the start of a sequence."""

    @classmethod
    def of(cls, prefixes: Mapping[int, Prefix], state: tuple[int, ...], device: torch.device) -> "JoinedPrefixes":
        """Join prefixes, given by adapter id."""
        lengths = {adapter_id: len(pairs[0][0]) for adapter_id, pairs in prefixes.items()}
        layers = zip(*prefixes.values(), strict=True)
        pairs = (
            next(iter(prefixes.values()))
            if len(prefixes) == 1
            else [(torch.cat([key for key, _ in layer]), torch.cat([value for _, value in layer])) for layer in layers]
        )
        owners = torch.tensor([adapter_id for adapter_id, length in lengths.items() for _ in range(length)], device=device)
        offsets = torch.tensor([offset for length in lengths.values() for offset in range(-length, 0)], device=device)
        return cls(tuple(prefixes), state, pairs, owners, offsets)


class MountedAdapters:
    """The adapters that requests may name, and the adapter that the model was loaded with."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.own: Adapter | None = None
        self.own_is_on = True
        self._adapters: dict[int, Adapter] = {}
        self._ids: dict[str, int] = {}
        self._next_id = count(OWN + 1)
        self._users: Counter[int] = Counter()
        self._counting = Lock()  # several Decoders may share the network, each in a thread
        self._loras = MountedLoras(network)
        self._last_joined: JoinedPrefixes | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the mounted adapters."""
        return tuple(self._ids)

    def mount(self, name: str, folder: Path) -> None:
        """Load an adapter under a name. Raises UserError for a name that is taken, and for what is no adapter of this base, or broken."""
        if name in self._ids or name == BASE_NAME:
            raise UserError(
                Bilingual(f'mount: the name "{name}" is taken. Choose another one.', f"mount：名称 {name} 已被占用：请换一个。"),
            )
        self._free_linears()
        adapter, _ = load_adapter(folder, self.network)
        adapter_id = next(self._next_id)
        if isinstance(adapter, Lora):
            adapter.mount(self._loras, adapter_id)
        try:
            self._refuse_broken(folder, adapter)
        except UserError:
            if isinstance(adapter, Lora):
                self._loras.remove(adapter_id)
            raise
        self._ids[name], self._adapters[adapter_id] = adapter_id, adapter

    def merge_own(self, *, dequantize: bool) -> None:
        """Merge the model's own LoRA into the weights; see `Adapter.merge`. Raises UserError while others are mounted."""
        assert isinstance(self.own, Lora)
        if self._ids:
            names = ", ".join(self.names)
            raise UserError(
                Bilingual(
                    f"merge: other adapters are mounted on the same weights ({names}). Unmount them first.",
                    f"merge：同一权重上还挂载着其他适配器（{names}）：请先卸载。",
                )
            )
        if self.own.mounted_as is not None:
            self._loras.remove(OWN)
        self.own.merge(dequantize=dequantize)
        self.own = None

    def unmount(self, name: str) -> None:
        """Remove an adapter. Raises UserError for an unknown name, and while requests use it."""
        adapter_id = self._id_of(name)
        if self._users[adapter_id]:
            users = self._users[adapter_id]
            raise UserError(
                Bilingual(
                    f'unmount: {users} requests use "{name}". Wait until they have ended, or cancel them.',
                    f"unmount：有 {users} 个请求正在使用 {name}：请等待其结束或取消它们。",
                )
            )
        if isinstance(self._adapters.pop(adapter_id), Lora):
            self._loras.remove(adapter_id)
        del self._ids[name]
        self._last_joined = None

    def acquire(self, name: str | None) -> int:
        """See NamedAdapters of inference/decoder.py."""
        if name is None:
            adapter_id = OWN if self.own is not None and self.own_is_on else NO_ADAPTER
        else:
            adapter_id = NO_ADAPTER if name == BASE_NAME else self._id_of(name)
        with self._counting:
            self._users[adapter_id] += 1
        return adapter_id

    def release(self, adapter_id: int) -> None:
        """See NamedAdapters of inference/decoder.py."""
        with self._counting:
            self._users[adapter_id] -= 1

    def row_adapters(self, adapter_ids: Sequence[int]) -> RowAdapters:
        """See Adapters of inference/decode_batch.py."""
        used = tuple(sorted({*adapter_ids}))
        if isinstance(self.own, Lora) and self.own.mounted_as is None:
            if used == ((OWN,) if self.own_is_on else (NO_ADAPTER,)):
                return RowAdapters()
            self._free_linears()
        prefixes = {adapter_id: adapter for adapter_id in used if (adapter := self._adapter(adapter_id)) and not isinstance(adapter, Lora)}
        id_of_row = torch.tensor([*adapter_ids], device=self.network.device)
        loras: Tensor | int = NO_ADAPTER if prefixes.keys() | {NO_ADAPTER} >= {*used} else id_of_row
        if not prefixes:
            return RowAdapters(loras=loras)
        prefix = self._joined(prefixes)
        if len(used) == 1:
            return RowAdapters(prefix.pairs, loras=loras)
        return RowAdapters(prefix.pairs, prefix.owners != id_of_row[:, None], prefix.offsets, loras)

    def _adapter(self, adapter_id: int) -> Adapter | None:
        return self.own if adapter_id == OWN else self._adapters.get(adapter_id)

    def _id_of(self, name: str) -> int:
        if name in self._ids:
            return self._ids[name]
        known = ", ".join([BASE_NAME, *self._ids])
        raise UserError(
            Bilingual(
                f'adapter: none is mounted as "{name}". Mounted: {known}. Call model.mount(name, folder) first.',
                f"adapter：没有名为 {name} 的适配器；已有 {known}。请先调用 model.mount(name, folder)。",
            )
        )

    def _free_linears(self) -> None:
        """Take the model's own LoRA out of the network's modules, so that rows can do without it."""
        if isinstance(self.own, Lora) and self.own.mounted_as is None:
            self.own.mount(self._loras, OWN)
            self.network.token_loras.default = OWN if self.own_is_on else NO_ADAPTER

    def _refuse_broken(self, folder: Path, adapter: Adapter) -> None:
        """Raise UserError unless a prefix, or the matrices of a LoRA, are finite in the network's dtype.

        All rows of a batch see the adapters of all, those of others by a weight of 0, and 0 times infinity is NaN.
        """
        with torch.no_grad():
            if isinstance(adapter, Lora):
                refuse_broken(folder, {name: tensor.to(self.network.dtype) for name, tensor in adapter.named_tensors().items()})
            else:
                refuse_broken(folder, {"prefix": torch.stack([part for pair in self._pairs(adapter) for part in pair])})

    def _pairs(self, adapter: Adapter) -> Prefix:
        prefix = adapter.prefix(self.network.dtype)
        assert prefix is not None, "only a LoRA has none"
        return prefix

    def _joined(self, adapters: Mapping[int, Adapter]) -> JoinedPrefixes:
        """The prefixes of these adapters, one after another; the last ones asked for are kept until their tensors change."""
        tensors = [tensor for adapter in adapters.values() for tensor in adapter.named_tensors().values()]
        state = tuple(value for tensor in tensors for value in (id(tensor), tensor.data_ptr(), tensor._version))
        joined = self._last_joined
        if joined is None or joined.adapter_ids != tuple(adapters) or joined.state != state:
            pairs = {adapter_id: self._pairs(adapter) for adapter_id, adapter in adapters.items()}
            joined = self._last_joined = JoinedPrefixes.of(pairs, state, self.network.device)
        return joined
