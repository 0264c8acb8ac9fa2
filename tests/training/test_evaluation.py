import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import imprint
from imprint.data.dataset import load_samples
from imprint.data.encode import encode_messages
from imprint.data.section import DataSection
from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.generate import generate
from imprint.inference.request import Request
from imprint.training import evaluation
from tests.bases import base_of
from tests.tinyrun import described, learned_tensors, losses, tiny_recipe, tiny_run


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


def test_watched_rows_with_tools_are_asked_with_their_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [{"role": "user", "content": "冷吗？"}, {"role": "assistant", "metadata": "天气", "content": "{}"}]
    turns += [{"role": "observation", "content": "冷"}, {"role": "assistant", "content": "冷。"}]
    rows = tmp_path / "tools.jsonl"
    rows.write_text((json.dumps({"tools": [{"name": "天气"}], "messages": turns}) + "\n") * 4, encoding="utf-8")
    asked: list[list[int]] = []

    def answer(model: PrefixedNetwork, requests: list[Request]) -> list[list[int]]:
        asked.extend(list(request.ids) for request in requests)
        return generate(model, requests)

    monkeypatch.setattr(evaluation, "generate", answer)
    base = base_of("ChatGLM3-6B", tmp_path / "glm3")
    data = f"{{train: {rows}, dev_share: 0.25, max_source_length: 200, max_target_length: 4}}"
    tiny_run(tiny_recipe(tmp_path), "tools", f"model.path={base}", f"data={data}", "tune={method: lora, rank: 2}", "train.steps=1")
    template, samples = imprint.load(base, device="cpu").template, load_samples(DataSection(train=rows), tools=True)[1]
    assert len(samples) == 2
    assert asked == [encode_messages(template, sample.messages, max_source_length=200).ids for sample in samples]
