import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imprint.kernels import tiles
from tests.kernels.compiled import SHARED_KIB
from tests.kernels.quantized_weights import needs_triton

SHAPES = ((12288, 4096), (4096, 4096), (16384, 4096), (4096, 16384), (130528, 4096), (640, 2048), (2048, 640), (4096, 13696), (4, 8))
"""(N, K) of ChatGLM-6B, ChatGLM2-6B and a small model."""


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_program_reads_a_bounded_number_of_elements_and_gives_every_thread_some(rows: int, columns: int) -> None:
    quantized = [
        (tiles.vector_tile(rows, columns * bits // 32, group), columns * bits // 32, 1) for bits, group in ((4, 0), (8, 0), (4, 16))
    ]
    for tile, width, unit in (*quantized, (tiles.dense_tile(rows, columns), columns, 8)):
        threads = tiles.WARP * tile.warps
        each = -(-width // tile.columns) * max(1, tile.columns // unit // threads)

        assert tile.columns == tiles.power_of_two(tile.columns)
        assert tile.rows * each <= (tiles.UNROLLED if unit == 8 else tiles.UNROLLED_WORDS) or tile.rows == 1
        assert tile.rows <= 8


def test_a_tile_of_a_format_with_groups_is_a_group_wide() -> None:
    assert tiles.batch_tile(4096, 1024, 32, 16, 4).columns == 32
    assert tiles.batch_tile(4096, 3, 0, 16, 4).columns == 16  # as few as a matrix product has


def test_a_tile_is_as_wide_as_the_shared_memory_of_a_card_allows() -> None:
    assert [tiles.batch_tile(4096, 1024, 0, 64, 2, 1024 * kib).columns for kib in (227, 99, 64)] == [64, 64, 32]


def test_programs_share_the_columns_of_rows_that_are_too_few_for_a_gpu() -> None:
    assert [tiles.batch_tile(*shape, 0, 64, 4).parts for shape in ((16384, 1024), (4096, 4096), (4096, 32))] == [1, 4, 1]


def test_one_token_goes_the_way_of_several_where_that_was_measured_to_be_faster() -> None:
    shapes = ((12288, 4096), (4096, 4096), (16384, 4096), (4096, 16384), (130528, 4096))

    assert [tiles.single_as_batch(*shape, grouped=True) for shape in shapes] == [True, False, True, True, True]
    assert [tiles.single_as_batch(*shape, grouped=False) for shape in shapes] == [False, False, False, True, True]


def test_powers_of_two() -> None:
    assert [tiles.power_of_two(number) for number in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


@needs_triton
@pytest.mark.long
@pytest.mark.parametrize("capability", SHARED_KIB)
def test_every_tile_compiles_for_every_card_within_its_shared_memory(capability: int, repo: Path) -> None:
    command = [sys.executable, "-m", "tests.kernels.compiled", str(capability)]

    done = subprocess.run(command, cwd=repo, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, encoding="utf-8", check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    made = [json.loads(line) for line in done.stdout.splitlines()]
    batch = {"order_columns_kernel", "quantized_batch_kernel", "add_parts_kernel"} if capability >= 80 else set()
    assert {name for name, *_ in made} == batch | {"dense_vector_kernel", "dequantize_kernel", "quantized_vector_kernel"}
    assert [one for one in made if one[2] > 1024 * SHARED_KIB[capability] or one[3] == 0] == []
