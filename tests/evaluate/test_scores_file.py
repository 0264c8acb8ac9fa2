"""What is counted, written and said of answers."""

import json
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.files.atomic import read_jsonl
from imprint.metrics.means import score
from imprint.metrics.protocols import PROTOCOLS
from imprint.runs import RunFolder
from tests.evaluate.answers import Ask, scores


def test_scores_are_those_of_the_protocol_with_intervals_and_settings(ask: Ask, rows: Path) -> None:
    folder = ask()
    found, lines = scores(folder), read_jsonl(folder / "predictions.jsonl")
    counted = score([line["prediction"] for line in lines], [line["label"] for line in lines])
    for metric in ("rouge-1", "rouge-2", "rouge-l", "bleu-4"):
        assert found[metric]["value"] == pytest.approx(counted[metric])
        assert found[metric]["low"] <= found[metric]["value"] <= found[metric]["high"]
    assert (found["protocol"], found["rows"], found["empty"], found["data"]) == ("chatglm-6b", 24, 0, str(rows))
    assert {"unfinished_share", "repeated_share", "copied_share"} <= set(found)
    assert found["settings"]["temperature"] == 0.0
    assert found["settings"]["max_new_tokens"] == 24  # from the run's data.max_target_length


def test_the_scores_are_reported(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ask(limit=5)
    printed = capsys.readouterr().out
    assert "95 % interval" in printed
    assert "bleu-4" in printed
    assert "5 rows: 0 empty" in printed
    assert f"written to {folder}" in printed


def test_it_is_reported_under_which_protocol_and_whether_references_were_cut(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    whole = ask(limit=3)
    assert "protocol chatglm-6b: BLEU-4 over characters, references whole" in capsys.readouterr().out
    assert scores(whole)["references_cut_to"] is None
    cut = ask("truncation=original", "max_target_length=10", "protocol=words", limit=3, name="cut")
    assert "protocol words: BLEU-4 over words, references cut to 8 tokens, as ChatGLM-6B's script cuts them" in capsys.readouterr().out
    assert scores(cut)["references_cut_to"] == 8


def test_another_protocol_asks_nothing_anew(ask: Ask, batches: list[int]) -> None:
    found = {}
    for name in PROTOCOLS:
        lines = read_jsonl(ask(f"protocol={name}", limit=6) / "predictions.jsonl")
        found[name] = scores(ask(f"protocol={name}", limit=6))["bleu-4"]["value"]
        assert found[name] == pytest.approx(
            score([line["prediction"] for line in lines], [line["label"] for line in lines], name)["bleu-4"]
        )
    assert batches == [6]
    assert found["words"] != found["chatglm-6b"]


def test_rows_that_the_protocol_leaves_out_are_reported(ask: Ask, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(ask("protocol=swift", folder=run.path.parent / "base", limit=4))  # the base before it learned to talk
    assert (found["dropped"], found["empty"]) == (4, 4)
    assert "4 rows left out of the means" in capsys.readouterr().out


def test_many_bad_answers_are_warned_of_on_top(ask: Ask, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ask(folder=run.path.parent / "base", limit=4)
    printed = capsys.readouterr().out
    assert printed.index("warning: 100% of the answers are empty: the model ends at once.") < printed.index("rouge-1")
    assert "警告：100% 的回答是空的" in printed
    ask("max_new_tokens=1", limit=4, name="short")
    printed = capsys.readouterr().out
    assert "warning: 100% of the answers never stop: their limit ended them." in printed
    assert "are empty:" not in printed
    assert "warning" not in (folder / "scores.json").read_text(encoding="utf-8")


def test_an_evaluation_scores_as_its_files_are_scored_again(ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ask("max_new_tokens=1", "truncation=original", "max_target_length=12")
    for name in ("predictions.jsonl", "generated_predictions.txt"):
        assert main(["score", str(folder / name), "--protocol", "chatglm-6b", "--output", str(tmp_path / "again.json")]) == 0
        again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
        assert again["protocols"]["chatglm-6b"]["bleu-4"] == scores(folder)["bleu-4"]
        assert again["protocols"]["chatglm-6b"]["references_cut_to"] == 10
        assert again["unfinished_share"] == scores(folder)["unfinished_share"] == 1.0
        assert "`imprint evaluate` had cut them to 10 tokens" in capsys.readouterr().out


def test_prompts_that_were_cut_are_counted(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert scores(ask("max_source_length=6", limit=3))["cut_prompts"] == 3
    assert "3 prompts were cut to max_source_length=6" in capsys.readouterr().out


def test_an_empty_prediction_scores_nothing_and_is_counted(ask: Ask, run: RunFolder) -> None:
    found = scores(ask(folder=run.path.parent / "base", name="empty", limit=4))  # the base before it learned to talk
    assert (found["rows"], found["empty"]) == (4, 4)
    assert all(found[metric]["value"] == 0 for metric in ("rouge-1", "rouge-2", "rouge-l", "bleu-4"))
