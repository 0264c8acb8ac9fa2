from pathlib import Path

import pytest

from imprint.cli import main
from imprint.kernels.compilations import Compilations
from imprint.models import kernel_paths
from tests.inference.recorders import use_plain_recorder
from tests.tinyrun import tiny_run


def test_float16_on_a_cpu_is_told_as_slow_and_a_tiny_base_by_its_number(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), f"output={recipe.parent / 'half'}", "train.steps=1", "model.dtype=float16"]) == 0
    said = capsys.readouterr().out
    assert "float16 is many times slower than float32 on a CPU; leave model.dtype out" in said
    assert "0.0 M" not in said
    assert "0.00 M" not in said


def test_the_verdict_counts_epochs_as_they_were_drawn(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knobs = ["data.dev_share=0", "train.batch_size=16", "train.micro_batch_size=16"]  # 24 rows: a batch of 16 and one of 8
    tiny_run(recipe, str(tmp_path / "run"), *knobs)
    assert "each of 24 rows was learned from 3.0 times" in capsys.readouterr().out


def test_a_run_counts_its_graphs_and_the_kernels_that_were_compiled(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_plain_recorder(monkeypatch)
    monkeypatch.setattr(kernel_paths, "compilations", lambda: Compilations(compiled=3))
    tiny_run(recipe, str(tmp_path / "run"), "train.steps=2")
    assert "CUDA graphs of decoding: 1; Triton kernels compiled: 3, found in its cache: 0" in capsys.readouterr().out


def test_the_verdict_of_a_part_of_an_epoch_counts_the_rows_it_saw(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_run(recipe, str(tmp_path / "run"), "data.dev_share=0", "train.steps=2")
    assert "8 of 24 rows were learned from once; an epoch is 6 steps" in capsys.readouterr().out
