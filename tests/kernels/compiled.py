"""Compiles the kernels for cards that are not there, with the tiles that are used: `python -m tests.kernels.compiled 80 90` prints JSON.

It is a program of its own because tests run the same kernels in Triton's interpreter.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from imprint.kernels import tiles
from imprint.kernels.batch_kernels import add_parts_kernel, order_columns_kernel, quantized_batch_kernel
from imprint.kernels.dense_kernels import dense_vector_kernel
from imprint.kernels.quantized_kernels import dequantize_kernel, quantized_vector_kernel
from imprint.kernels.tiles import Tile
from tests.kernels.cards import compile_for

SHAPES = ((12288, 4096), (4096, 16384), (130528, 4096), (4096, 13696), (2048, 640))
"""(N, K): linears and head of ChatGLM-6B, a width of ChatGLM2-6B, and a small model."""
FORMATS = ((8, 0), (4, 0), (4, 16))
"""(Bits, words that share a scale)."""
SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 120: 99}
"""Shared memory that a program may have, by compute capability. Source: CUDA C++ Programming Guide, technical specifications."""
Kernel = tuple[Any, dict[str, str], dict[str, Any], Tile]
"""Function, types of its tensors, constants, tile."""


def kernels(dtype: str) -> Iterator[Kernel]:
    """Those for any number of tokens and for one in `fp16` or `bf16`; the same one once for all shapes that it is compiled for once."""
    pointer, found = f"*{dtype}", dict[str, Kernel]()
    quantized = {"words": "*i32", "scales": "*fp16", "out": pointer, "first": "i32", "end": "i32"}
    product = quantized | {"x": pointer, "bias": pointer}
    for rows, columns in SHAPES:
        tile = tiles.dense_tile(rows, columns)
        constants: dict[str, Any] = {"K": columns, "HAS_BIAS": True, "BLOCK_N": tile.rows, "BLOCK_K": tile.columns, "GELU": True}
        types = {"x": pointer, "weight": pointer, "bias": pointer, "out": pointer, "N": "i32"}
        found[f"dense {constants} {tile}"] = (dense_vector_kernel, types, constants, tile)
        for bits, group in FORMATS:
            words = columns * bits // 32
            base = {"W": words, "BITS": bits, "GROUP": group}
            tile = tiles.DEQUANTIZE
            found[f"dequantize {base}"] = (dequantize_kernel, quantized, base | block(tile), tile)
            tile = tiles.vector_tile(rows, words, group)
            for unroll in {tile.unroll, 2}:
                more = {"HAS_BIAS": True, "UNROLL": unroll, "GELU": True}
                offsets = {"low": "i32", "high": "i32"}
                found[f"vector {base} {more} {tile}"] = (quantized_vector_kernel, product | offsets, base | more | block(tile), tile)
    yield from found.values()


def batch_kernels(dtype: str, shared_memory: int, *, chained: bool) -> Iterator[Kernel]:
    """Those for 1 to 64 tokens; `chained`: as on cards that start a kernel before the one ahead of it has ended."""
    pointer, found = f"*{dtype}", dict[str, Kernel]()
    for (rows, columns), (bits, group), tokens in itertools.product(SHAPES, FORMATS, (16, tiles.BATCH_TOKENS)):
        width, planes = columns * bits // 16, 16 // bits
        tile = tiles.batch_tile(rows, width, 2 * group, tokens, planes, shared_memory)
        described = chained and tile.described
        types = {"x": f"tensordesc<{dtype}[{tokens}, {planes * tile.columns}]>" if described else pointer}
        types |= {"pairs": "*i16", "scales": "*fp16", "bias": pointer, "out": "*fp32" if tile.parts > 1 else pointer}
        types |= dict.fromkeys(("T", "first", "end", "PART"), "i32")
        constants = {"W": width, "BITS": bits, "GROUP": 2 * group, "HAS_BIAS": tile.parts == 1, "PTX": True, "TOKENS": tokens}
        constants |= {"STAGES": tile.stages, "DESCRIBED": described, "CHAINED": chained} | block(tile)
        found[f"{constants} {types}"] = (quantized_batch_kernel, types, constants, tile)
    for columns in (2, 4):
        types = {"x": f"*i{16 * columns}", "ordered": "*i16", "SIZE": "i32"}
        constants = {"W": 1024, "L": columns, "BLOCK_W": 32, "BLOCK": tiles.ELEMENTS, "CHAINED": chained}
        found[f"order {columns}"] = (order_columns_kernel, types, constants, tiles.DEQUANTIZE)
    types = {"parts": "*fp32", "bias": pointer, "out": pointer, "SIZE": "i32", "COUNT": "i32"}
    constants = {"PARTS": 4, "HAS_BIAS": True, "BLOCK": tiles.SUMS, "CHAINED": chained}
    found["parts"] = (add_parts_kernel, types, constants, tiles.DEQUANTIZE)
    yield from found.values()


def block(tile: Tile) -> dict[str, int]:
    return {"BLOCK_N": tile.rows, "BLOCK_W": tile.columns}


def compiled(kernel: Kernel, capability: int) -> Any:
    """The kernel compiled for a card, to its machine code."""
    function, types, constants, tile = kernel
    names, parameters = function.arg_names, function.params
    aligned = [
        name
        for name, parameter in zip(names, parameters, strict=True)
        if name not in constants
        and not types[name].startswith("tensordesc")
        and not parameter.do_not_specialize_on_alignment
        and not parameter.do_not_specialize
    ]
    typed = {name: types[name] for name in names if name not in constants}
    return compile_for(capability, function, typed, constants, aligned, num_warps=tile.warps, num_stages=3)


def main() -> None:
    """One line for each kernel and card: its name, the card, bytes of shared memory, bytes of machine code."""
    for capability in map(int, sys.argv[1:]):
        for dtype in ("fp16",) if capability < 80 else ("fp16", "bf16"):
            batch = batch_kernels(dtype, 1024 * SHARED_KIB[capability], chained=capability >= 90) if capability >= 80 else ()
            for kernel in (*kernels(dtype), *batch):  # a card before dequantizes instead
                name = kernel[0].__name__
                made = compiled(kernel, capability)
                sys.stdout.write(json.dumps([name, capability, made.metadata.shared, len(made.asm["cubin"])]) + "\n")


if __name__ == "__main__":
    main()
