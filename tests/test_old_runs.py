"""Run folders, states, adapters, exports and bundles of an earlier commit, `tests/golden-runs`: today's code reads them and goes on."""

import io
import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import imprint

OLD = Path(__file__).parent / "golden-runs"
RESULT = {"prefix": "adapter/prefix.safetensors", "lora": "adapter/adapter_model.safetensors", "full": "model/model.safetensors"}
"""Method -> the file of what its run has learned."""
ROUNDING = 1e-3
"""How far a loss may be from that of another kind of processor; on one that is the same, nothing differs."""
FEW = 2
"""Of 24 answers, how many may differ after twenty steps of such rounding; what is only read answers alike."""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, and the working directory: its paths are relative."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def typed(monkeypatch: pytest.MonkeyPatch, *words: str, lines: Sequence[str] = ()) -> int:
    """`python -m imprint WORDS` with these lines on its standard input; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["imprint", *words])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()), encoding="utf-8"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("imprint", run_name="__main__", alter_sys=True)
    return int(ended.value.code or 0)


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def losses_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a log that hold a loss, as that commit wrote them: without `event`."""
    lines = [line for line in lines_of(run / "log.jsonl") if "loss" in line or "eval_loss" in line]
    return [{name: value for name, value in line.items() if name != "event"} for line in lines]


def answers_of(evaluation: Path) -> list[str]:
    return [row["prediction"] for row in lines_of(evaluation / "predictions.jsonl")]


def questions() -> list[str]:
    return [row["content"] for row in lines_of(Path("train.jsonl"))]


def answered(model: Any, asked: Sequence[str]) -> list[str]:
    ids = model.generate([model.prompt(question, max_source_length=64) for question in asked], 40)
    return [model.tokenizer.decode(answer) for answer in ids]


@pytest.mark.parametrize("method", RESULT)
def test_a_run_that_an_earlier_commit_began_ends_where_that_commit_ended_it(
    method: str, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "lora":  # its dropout draws for each token, and that commit computed the last one of a row, too
        monkeypatch.setattr("imprint.pack._predicting", lambda labels, _span: len(labels))
    run, finished = old / "stopped" / method, old / "finished" / method
    before = losses_of(run)
    assert typed(monkeypatch, "train", f"{method}.yaml") == 0

    log, expected = losses_of(run), losses_of(finished)
    kept = [line for line in before if line["step"] <= 10]
    assert log[: len(kept)] == kept  # times too: it went on, and did not begin again
    assert [(line["step"], sorted(line)) for line in log] == [(line["step"], sorted(line)) for line in expected]
    for name in ("loss", "eval_loss", "learning_rate"):
        found, wanted = ([line[name] for line in lines if name in line] for lines in (log, expected))
        assert found == pytest.approx(wanted, rel=ROUNDING)

    tensors, wanted_tensors = load_file(run / RESULT[method]), load_file(finished / RESULT[method])
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: tensor.shape for name, tensor in wanted_tensors.items()}
    for name, tensor in wanted_tensors.items():
        assert float(torch.linalg.norm(tensors[name] - tensor)) <= 0.01 * float(torch.linalg.norm(tensor)), name

    assert typed(monkeypatch, "evaluate", f"stopped/{method}", "--data", "train.jsonl") == 0
    pairs = zip(answers_of(run / "evaluations" / "train"), answers_of(finished / "evaluations" / "train"), strict=True)
    assert sum(answer != wanted for answer, wanted in pairs) <= FEW


@pytest.mark.parametrize("method", RESULT)
def test_a_finished_run_is_read_by_every_command(
    method: str, old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = old / "finished" / method
    expected = answers_of(run / "evaluations" / "train")
    assert typed(monkeypatch, "evaluate", f"finished/{method}", "--data", "train.jsonl", "output=again") == 0
    assert answers_of(old / "again") == expected
    expected_scores = json.loads((run / "evaluations" / "train" / "scores.json").read_text(encoding="utf-8"))
    found = json.loads((old / "again" / "scores.json").read_text(encoding="utf-8"))
    assert found.keys() == expected_scores.keys()

    capsys.readouterr()
    assert typed(monkeypatch, "chat", f"finished/{method}", "temperature=0", lines=questions()[:1]) == 0
    assert capsys.readouterr().out.strip() == expected[0]
    for command in ("report", "compare", "forgetting"):
        assert typed(monkeypatch, command, f"finished/{method}") == 0
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert "<html" in (run / "compare.html").read_text(encoding="utf-8")
    assert (run / "forgetting.json").is_file()


def test_what_was_forgotten_is_what_that_commit_found(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = old / "finished" / "prefix" / "forgetting.json"
    expected = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    assert typed(monkeypatch, "forgetting", "finished/prefix") == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found.keys() >= expected.keys()
    assert [found[name] for name in ("counted", "asked", "kept")] == [expected[name] for name in ("counted", "asked", "kept")]
    numbers = [name for name, value in expected.items() if isinstance(value, float) and name != "seconds"]
    assert [found[name] for name in numbers] == pytest.approx([expected[name] for name in numbers], rel=ROUNDING)


@pytest.mark.parametrize(
    ("base", "adapter", "method"),
    [
        ("bases/chatglm", "stopped/prefix/adapter", None),
        ("bases/chatglm", "finished/prefix/adapter", "prefix"),
        ("bases/chatglm", "exported/prefix-official", "prefix"),
        ("bases/chatglm", "exported/prefix-official/pytorch_model.bin", "prefix"),
        ("bases/chatglm2", "finished/lora/adapter", "lora"),
        ("bases/chatglm2", "exported/lora-peft", "lora"),
        ("exported/lora-int8", None, "lora"),
        ("finished/full/model", None, "full"),
        ("exported/full-transformers", None, "full"),
    ],
)
def test_what_that_commit_wrote_answers_as_it_did(base: str, adapter: str | None, method: str | None, old: Path) -> None:
    asked = questions()
    answers = answered(imprint.load(base, adapter=adapter, device="cpu"), asked)
    if method is None:  # an adapter of a run that was killed: nobody has asked it
        assert all(answers)
    else:
        assert answers == answers_of(old / "finished" / method / "evaluations" / "train")


@pytest.mark.parametrize("method", ["prefix", "lora"])
def test_a_bundle_of_that_commit_is_talked_to(
    method: str, old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "chat", f"exported/{method}.tar", "temperature=0", lines=questions()[:1]) == 0
    assert capsys.readouterr().out.strip() == answers_of(old / "finished" / method / "evaluations" / "train")[0]


def test_an_old_run_is_a_base_and_a_start_for_new_ones(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["train.steps=2", "train.evaluate_every=2", "train.watch_prompts=0", "forgetting.measure=false"]
    onto = ["model.path=finished/full", "output=onto", "tune={method: lora, rank: 2}"]
    assert typed(monkeypatch, "train", "prefix.yaml", *onto, *short) == 0
    further = ["output=further", "tune={method: prefix, adapter: finished/prefix/adapter}"]
    assert typed(monkeypatch, "train", "prefix.yaml", *further, *short) == 0
    first = losses_of(old / "further")[0]
    best = min(line["eval_loss"] for line in lines_of(old / "finished" / "prefix" / "log.jsonl") if "eval_loss" in line)
    assert first["eval_loss"] == pytest.approx(best, rel=ROUNDING)
    assert (old / "onto" / "adapter" / "adapter_model.safetensors").is_file()
