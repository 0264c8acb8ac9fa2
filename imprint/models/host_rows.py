"""The rows of a token embedding in main memory, looked up there and copied to the device.

Legend: T packed tokens, C hidden size, V vocabulary size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class HostRows:
    """The weight (V, C) of an embedding in main memory.

    Ids on a GPU are waited for. What repeats a pass as a CUDA graph calls `load` before each repetition, with ids in main memory, and
    captures the pass inside `preloaded`: there the rows are where `load` has put them.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach() if weight.is_meta else weight.detach().to("cpu", copy=True)
        self._memory: Tensor | None = None
        self._is_loaded = False

    def __call__(self, ids: Tensor) -> Tensor:
        """Ids (T,) -> their rows (T, C), on the device of the ids."""
        if self._is_loaded:
            assert self._memory is not None
            return self._memory[: len(ids)]
        if ids.is_meta:
            return ids.new_empty((len(ids), self.weight.shape[1]), dtype=self.weight.dtype)
        return self._copied(ids.cpu(), ids.device)

    def load(self, ids: Tensor, device: torch.device) -> None:
        """Put the rows of ids (T,) where a pass inside `preloaded` reads them; their memory moves only where T is larger than before."""
        if self._memory is None or len(self._memory) < len(ids):
            self._memory = torch.empty((len(ids), self.weight.shape[1]), dtype=self.weight.dtype, device=device)
        self._memory[: len(ids)].copy_(self._copied(ids.cpu(), device))

    @contextmanager
    def preloaded(self) -> Iterator[None]:
        """Inside this block the rows are those of the last `load`, whatever the ids."""
        self._is_loaded = True
        try:
            yield
        finally:
            self._is_loaded = False

    def _copied(self, ids: Tensor, device: torch.device) -> Tensor:
        rows = self.weight[ids]
        return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)


class RowEmbedding(nn.Module):
    """An embedding that takes its rows from elsewhere, and does with them what the original one does, which loses its weight.

    `rows`: ids (T,) -> (T, C).
    """

    def __init__(self, original: nn.Embedding, rows: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = original.num_embeddings, original.embedding_dim
        original.padding_idx = None
        self._original = (original,)  # no submodule: it has no weight of its own
        self.rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (...) -> (..., C)."""
        rows, (original,) = self.rows(ids.flatten()), self._original
        original._parameters["weight"] = rows  # type: ignore[assignment]
        try:
            out: Tensor = original(torch.arange(len(rows), device=rows.device).view(ids.shape))
        finally:
            original._parameters["weight"] = None
        return out
