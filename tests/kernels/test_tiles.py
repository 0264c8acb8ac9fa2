import pytest

from imprint.kernels import tiles

SHAPES = ((12288, 4096), (4096, 4096), (16384, 4096), (4096, 16384), (130528, 4096), (640, 2048), (2048, 640), (4096, 13696), (4, 8))
"""(N, K) of ChatGLM-6B, ChatGLM2-6B and a small model."""


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_program_reads_a_bounded_number_of_elements_and_gives_every_thread_some(rows: int, columns: int) -> None:
    packed = [(tiles.vector_tile(rows, columns * bits // 32), columns * bits // 32, 1) for bits in (4, 8)]
    for tile, width, unit in (*packed, (tiles.dense_tile(rows, columns), columns, 8)):
        threads = tiles.WARP * tile.warps
        each = -(-width // tile.columns) * max(1, tile.columns // unit // threads)

        assert tile.columns == tiles.power_of_two(tile.columns)
        assert tile.rows * each <= tiles.UNROLLED or tile.rows == 1
        assert tile.rows <= 8


def test_a_tile_of_a_format_with_groups_is_a_group_wide() -> None:
    assert tiles.matrix_tile(4096, 512, 16).columns == 16
    assert tiles.matrix_tile(4096, 512, 0).columns == 64
    assert tiles.matrix_tile(4096, 3, 0).columns == 16  # as few as a matrix product has


def test_powers_of_two() -> None:
    assert [tiles.power_of_two(number) for number in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
