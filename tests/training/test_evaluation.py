import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imprint.training import evaluation
from tests.tinyrun import described, learned_tensors, losses, tiny_run


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Evaluation losses of these values, one after the other; the first is before tuning."""
    left = iter([9.5, *values])
    monkeypatch.setattr(evaluation, "evaluation_loss", lambda job, run_log: next(left))


@pytest.mark.parametrize(
    ("values", "step", "score"),
    [
        ([3.0, 2.0, 4.0, 2.5, 2.0, 9.0], 2, 2.0),
        ([float("nan"), 5.0, 6.0, float("inf"), float("nan"), 5.5], 2, 5.0),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 6, 1.0),
    ],
)
def test_the_adapter_is_the_one_with_the_lowest_evaluation_loss(
    values: list[float], step: int, score: float, recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted(monkeypatch, values)
    run = tiny_run(recipe, str(tmp_path / "run"), "train.evaluate_every=1")
    description = described(run)
    assert (description["step"], description["scores"]) == (step, {"eval_loss": score})
    assert description["base"] == str(recipe.parent / "base")
    kept = load_file(run.adapter / "prefix.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in learned_tensors(run, step).items())


def test_the_best_is_remembered_over_a_stop(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, signals: list[tuple[int, int]], tmp_path: Path
) -> None:
    scripted(monkeypatch, [3.0, 2.0, 4.0, 2.5, 3.0, 9.0])
    signals.append((3, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tiny_run(recipe, str(tmp_path / "run"), "train.evaluate_every=1")
    signals.clear()
    assert described(tiny_run(recipe, str(tmp_path / "run"), "train.evaluate_every=1"))["step"] == 2


def test_without_held_out_rows_the_last_state_is_kept(recipe: Path, tmp_path: Path) -> None:
    run = tiny_run(recipe, str(tmp_path / "run"), "data.dev_share=0")
    assert (described(run)["step"], described(run)["scores"]) == (6, {})
    assert losses(run, "eval_loss") == []


def test_only_the_newest_states_are_kept(recipe: Path, tmp_path: Path) -> None:
    run = tiny_run(recipe, str(tmp_path / "run"), "train.save_every=2", "train.keep_states=2", "train.steps=7")
    assert [state.name for state in run.states()] == ["state-000007", "state-000006"]
