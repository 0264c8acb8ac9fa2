"""Launches the Triton kernels on tensors. Imported only where a kernel is launched, because Triton is slow to import.

Legend: N rows (output features), K columns (input features), L columns that share a word of 32 bits, W words of a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from imprint.kernels import tiles
from imprint.kernels.batch_kernels import add_parts_kernel, order_columns_kernel, quantized_batch_kernel
from imprint.kernels.current_device import on_device
from imprint.kernels.dense_kernels import dense_vector_kernel
from imprint.kernels.language import descriptor
from imprint.kernels.quantized_kernels import dequantize_kernel, offset_bits, quantized_vector_kernel
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
    def group_pairs(self) -> int:
        """Pairs of bytes that share a scale; 0 for a whole row."""
        return self.group * self.bits // 16

    @property
    def columns(self) -> int:
        """K."""
        return self.integers.shape[1] * 8 // self.bits


def dequantize(weight: QuantizedRows, dtype: torch.dtype, tile: Tile = tiles.DEQUANTIZE) -> Tensor:
    """The rows in `dtype`, (rows, K)."""
    words = weight.words
    out = torch.empty((len(weight.rows), weight.columns), dtype=dtype, device=words.device)
    grid = (-(-words.shape[1] // tile.columns), -(-len(weight.rows) // tile.rows))
    with on_device(words):
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
    with on_device(x):
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


def suits_batch(weight: QuantizedRows) -> bool:
    """Whether `quantized_batch` is faster for one token, too."""
    large = weight.bits == 4 and tiles.single_as_batch(len(weight.rows), weight.columns, grouped=weight.group > 0)
    return large and bool(_chain(weight.integers.device))


def quantized_batch(x: Tensor, weight: QuantizedRows, bias: Tensor | None, tile: Tile | None = None) -> Tensor:
    """1 to 64 tokens (T, K), 16 bits, times the rows, plus the bias (N,) -> (T, rows)."""
    pairs, tokens, count = weight.integers.view(torch.int16), len(x), len(weight.rows)
    width, most = pairs.shape[1], max(16, tiles.power_of_two(tokens))
    tile = tile or tiles.batch_tile(count, width, weight.group_pairs, tokens, 16 // weight.bits, _shared_memory(x.device))
    part = -(-width // (tile.parts * tile.columns)) * tile.columns
    parts, chain = -(-width // part), _chain(x.device)
    out = torch.empty((tokens, count), dtype=x.dtype, device=x.device)
    sums = out if parts == 1 else torch.empty((parts, tokens, count), dtype=torch.float32, device=x.device)
    with on_device(x):
        ordered = _ordered(x, weight.bits, width, tile.columns, chained=bool(chain))
        described = tile.described and (bool(chain) or not x.is_cuda)
        quantized_batch_kernel[(-(-count // tile.rows), parts)](
            descriptor(ordered, [most, tile.columns * 16 // weight.bits]) if described else ordered,
            *(pairs, weight.scales, x if bias is None else bias, sums),
            *(tokens, weight.rows.start, weight.rows.stop, part),
            W=width,
            BITS=weight.bits,
            GROUP=weight.group_pairs,
            HAS_BIAS=bias is not None and parts == 1,
            PTX=x.is_cuda,
            TOKENS=most,
            BLOCK_N=tile.rows,
            BLOCK_W=tile.columns,
            STAGES=tile.stages,
            DESCRIBED=described,
            CHAINED=bool(chain),
            num_warps=tile.warps,
            **chain,
        )
        if parts > 1:
            add_parts_kernel[(-(-out.numel() // tiles.SUMS),)](
                *(sums, x if bias is None else bias, out, out.numel(), count),
                PARTS=parts,
                HAS_BIAS=bias is not None,
                BLOCK=tiles.SUMS,
                CHAINED=bool(chain),
                **chain,
            )
    return out


def _ordered(x: Tensor, bits: int, width: int, block: int, *, chained: bool) -> Tensor:
    """Tokens (T, K) in the order in which a block of pairs of so many bits is multiplied, (T, K padded to whole blocks)."""
    columns = 16 // bits
    words = torch.int64 if columns == 4 else torch.int32
    x = x.contiguous() if x.data_ptr() % words.itemsize == 0 else x.clone(memory_format=torch.contiguous_format)
    ordered = torch.empty((len(x), -(-width // block) * block * columns), dtype=x.dtype, device=x.device)
    size = ordered.numel() // columns
    order_columns_kernel[(-(-size // tiles.ELEMENTS),)](
        *(x.view(words), ordered.view(torch.int16), size),
        W=width,
        L=columns,
        BLOCK_W=block,
        BLOCK=tiles.ELEMENTS,
        CHAINED=chained,
    )
    return ordered


def dense_vector(x: Tensor, weight: Tensor, bias: Tensor | None, tile: Tile | None = None, *, gelu: bool = False) -> Tensor:
    """One token (1, K) times a weight (N, K), plus the bias (N,) -> (1, N); with `gelu` the tanh approximation of its GELU."""
    x, (rows, columns) = x.contiguous(), weight.shape
    tile = tile or tiles.dense_tile(rows, columns)
    out = torch.empty((1, rows), dtype=x.dtype, device=x.device)
    with on_device(x):
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


def _chain(device: torch.device) -> dict[str, bool]:
    """The option by which a kernel may be there before the one ahead of it has ended; nothing where the card has no such launches."""
    return {"launch_pdl": True} if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0) else {}


def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may have there."""
    if device.type != "cuda":
        return tiles.SMALLEST_SHARED
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]
