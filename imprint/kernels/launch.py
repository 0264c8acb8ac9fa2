"""Launches the Triton kernels on tensors. Imported only where a kernel is launched, because Triton is slow to import.

Legend: N rows (output features), K columns (input features), L columns that share a word of 32 bits, W words of a row.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from imprint.kernels import tiles
from imprint.kernels.dense_kernels import dense_vector_kernel
from imprint.kernels.medium_batch_kernels import lay_out_kernel, quantized_medium_batch_kernel
from imprint.kernels.quantized_kernels import dequantize_kernel, offset_bits, quantized_small_batch_kernel, quantized_vector_kernel
from imprint.kernels.tiles import Tile


@dataclass(frozen=True)
class QuantizedRows:
    """Some rows of a weight (N, K) in integers of 4 or 8 bits with scales."""

    integers: Tensor
    """int8, (N, K / 2) at 4 bits, else (N, K)."""
    scales: Tensor
    """(N,), or (N, groups)."""
    bits: int
    """4 or 8."""
    group: int
    """Columns that share a scale; 0 for a whole row."""
    rows: range
    """The rows that are meant."""

    @property
    def words(self) -> Tensor:
        """The integers as int32, (N, W)."""
        return self.integers.view(torch.int32)

    @property
    def group_words(self) -> int:
        """Words that share a scale; 0 for a whole row."""
        return self.group * self.bits // 32

    @property
    def columns(self) -> int:
        """K."""
        return self.integers.shape[1] * 8 // self.bits


def dequantize(weight: QuantizedRows, dtype: torch.dtype, tile: Tile = tiles.DEQUANTIZE) -> Tensor:
    """The rows in `dtype`, (rows, K)."""
    words = weight.words
    out = torch.empty((len(weight.rows), weight.columns), dtype=dtype, device=words.device)
    grid = (-(-words.shape[1] // tile.columns), -(-len(weight.rows) // tile.rows))
    with _on(words):
        dequantize_kernel[grid](
            words,
            weight.scales,
            out,
            weight.rows.start,
            weight.rows.stop,
            **_constants(weight, tile),
        )
    return out


def quantized_vector(x: Tensor, weight: QuantizedRows, bias: Tensor | None, tile: Tile | None = None, *, gelu: bool = False) -> Tensor:
    """One token (1, K) times the rows, plus the bias (N,) -> (1, rows); with `gelu` the tanh approximation of its GELU."""
    x, words = x.contiguous(), weight.words
    tile = tile or tiles.vector_tile(len(weight.rows), words.shape[1], weight.group_words)
    out = torch.empty((1, len(weight.rows)), dtype=x.dtype, device=x.device)
    with _on(x):
        quantized_vector_kernel[(-(-len(weight.rows) // tile.rows),)](
            x,
            words,
            weight.scales,
            x if bias is None else bias,
            out,
            weight.rows.start,
            weight.rows.stop,
            *offset_bits(weight.bits),
            HAS_BIAS=bias is not None,
            UNROLL=tile.unroll,
            GELU=gelu,
            **_constants(weight, tile),
        )
    return out


def quantized_small_batch(x: Tensor, weight: QuantizedRows, bias: Tensor | None, tile: Tile | None = None) -> Tensor:
    """Up to 16 tokens (T, K), 16 bits, times the rows, plus the bias (N,) -> (T, rows)."""
    x, words, tokens = x.contiguous(), weight.words, len(x)
    tile = tile or tiles.small_batch_tile(len(weight.rows), words.shape[1], weight.group_words)
    out = torch.empty((tokens, len(weight.rows)), dtype=x.dtype, device=x.device)
    with _on(x):
        quantized_small_batch_kernel[(-(-len(weight.rows) // tile.rows),)](
            x,
            words,
            weight.scales,
            x if bias is None else bias,
            out,
            tokens,
            weight.rows.start,
            weight.rows.stop,
            HAS_BIAS=bias is not None,
            TOKENS=8 if tokens <= 8 else tiles.SMALL_BATCH_TOKENS,
            STAGES=tile.stages,
            **_constants(weight, tile),
        )
    return out


def quantized_medium_batch(x: Tensor, weight: QuantizedRows, bias: Tensor | None, tile: Tile | None = None) -> Tensor:
    """Up to 64 tokens (T, K), 16 bits, times the rows, plus the bias (N,) -> (T, rows)."""
    x, words, tokens = x.contiguous(), weight.words, len(x)
    tile = tile or tiles.medium_batch_tile(len(weight.rows))
    width, per_word = words.shape[1], 32 // weight.bits
    spans, together = -(-width // 16), tiles.LAID_OUT_SPANS
    planes = torch.empty((per_word, tokens, width), dtype=x.dtype, device=x.device)
    sums = torch.empty((tokens, spans), dtype=torch.float32, device=x.device)
    out = torch.empty((tokens, len(weight.rows)), dtype=x.dtype, device=x.device)
    with _on(x):
        lay_out_kernel[(-(-spans // together), tokens)](x, planes, sums, tokens, W=width, L=per_word, S=spans, SPANS=together)
        quantized_medium_batch_kernel[(-(-len(weight.rows) // tile.rows),)](
            *(planes, sums, words, weight.scales, x if bias is None else bias, out, tokens, weight.rows.start, weight.rows.stop),
            W=width,
            BITS=weight.bits,
            GROUP=weight.group_words,
            HAS_BIAS=bias is not None,
            TOKENS=max(16, tiles.power_of_two(tokens)),
            BLOCK_N=tile.rows,
            STAGES=tile.stages,
            num_warps=tile.warps,
        )
    return out


def dense_vector(x: Tensor, weight: Tensor, bias: Tensor | None, tile: Tile | None = None, *, gelu: bool = False) -> Tensor:
    """One token (1, K) times a weight (N, K), plus the bias (N,) -> (1, N); with `gelu` the tanh approximation of its GELU."""
    x, (rows, columns) = x.contiguous(), weight.shape
    tile = tile or tiles.dense_tile(rows, columns)
    out = torch.empty((1, rows), dtype=x.dtype, device=x.device)
    with _on(x):
        dense_vector_kernel[(-(-rows // tile.rows),)](
            x,
            weight,
            x if bias is None else bias,
            out,
            rows,
            K=columns,
            HAS_BIAS=bias is not None,
            BLOCK_N=tile.rows,
            BLOCK_K=tile.columns,
            GELU=gelu,
            num_warps=tile.warps,
        )
    return out


def _constants(weight: QuantizedRows, tile: Tile) -> dict[str, int]:
    """What every kernel over quantized weights is compiled for."""
    return {
        "W": weight.words.shape[1],
        "BITS": weight.bits,
        "GROUP": weight.group_words,
        "BLOCK_N": tile.rows,
        "BLOCK_W": tile.columns,
        "num_warps": tile.warps,
    }


def _on(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
