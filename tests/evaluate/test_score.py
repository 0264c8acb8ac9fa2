"""`imprint score`: the numbers of the named tools, side by side, with what they count and what they hide."""

import json
from pathlib import Path
from typing import Any

import pytest

from imprint.cli import main
from imprint.metrics.means import METRICS, score
from imprint.metrics.protocols import PROTOCOLS
from tests.tiny import tiny_base

SAID = ["黑色上衣", "", "好看的裙子" * 5, "白色上衣。"]
WANTED = ["白色上衣", "好", "这条裙子真好看", "白色上衣。"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"labels": label, "predict": text} for text, label in zip(SAID, WANTED, strict=True)]
    path = tmp_path / "generated_predictions.txt"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def written(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_without_a_name_all_protocols_stand_side_by_side(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scores.json").symlink_to("linked.json")
    assert main(["score", str(file), "--output", str(tmp_path / "scores.json")]) == 0
    assert (tmp_path / "linked.json").is_file()

    said = capsys.readouterr().out
    found = written(tmp_path / "scores.json")
    assert list(found["protocols"]) == list(PROTOCOLS)
    (header,) = [line for line in said.splitlines() if line.split() == list(PROTOCOLS)]
    for metric in METRICS:
        (line,) = [line for line in said.splitlines() if line.startswith(f"{metric} ")]
        assert line.split()[1:] == [f"{score(SAID, WANTED, name)[metric]:.2f}" for name in PROTOCOLS]
        assert len(line) == len(header)
        for name in PROTOCOLS:
            mean = found["protocols"][name][metric]
            assert mean["value"] == pytest.approx(score(SAID, WANTED, name)[metric])
            assert mean["low"] <= mean["value"] <= mean["high"]
            assert f"{mean['low']:.2f} - {mean['high']:.2f}" in said


def test_it_says_what_each_column_counts_and_how_the_file_was_read(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(file), "--protocol", "swift", "--protocol", "words", "--protocol", "swift"]) == 0

    said = capsys.readouterr().out
    assert '4 rows; predictions from "predict", references from "labels"' in said
    assert f"swift: {PROTOCOLS['swift'].description.english}" in said
    assert PROTOCOLS["words"].description.chinese in said
    assert "llamafactory" not in said
    assert "swift: 1 of 4 rows were left out / 未计入 1 行" in said
    assert "References: as the file has them, not cut here." in said


def test_what_means_hide_is_reported_and_warned_of(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(file), "--output", str(tmp_path / "scores.json")]) == 0

    said = capsys.readouterr().out
    assert "25.0% of the answers are empty, 25.0% repeat themselves, whether they stop is not known from this file." in said
    assert "空回答 25.0%，自我重复 25.0%，是否停得下来：此文件没有记录。" in said
    assert said.index("warning: 25% of the answers are empty") < said.index("warning: 25% of the answers repeat") < said.index("rouge-1")
    found = written(tmp_path / "scores.json")
    assert (found["empty_share"], found["repeated_share"], found["unfinished_share"]) == (0.25, 0.25, None)
    assert "warning" not in json.dumps(found)


def test_answers_that_never_stop_are_counted_where_the_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prediction": "好", "label": "好", "finished": number > 1} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    assert main(["score", str(tmp_path / "rows.jsonl"), "--protocol", "words"]) == 0

    said = capsys.readouterr().out
    assert "50.0% never stop." in said
    assert "warning: 50% of the answers never stop" in said


def test_references_are_cut_as_published_by_the_tokenizer_that_is_named(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = json.loads((shared / "golden" / "chatglm1-text" / "text.json").read_text(encoding="utf-8"))["evaluation"]
    limits = {case["max_target_length"] for case in cases}
    for limit in limits:
        fitting = [case for case in cases if case["max_target_length"] == limit]
        cut = [case["reference"] for case in fitting]
        rows = [{"predict": case["reference"][::-1], "label": case["response"]} for case in fitting]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        name = f"chatglm-6b:{limit}:{shared / 'tokenizers' / 'chatglm-6b'}"

        assert main(["score", str(tmp_path / "rows.jsonl"), "--protocol", name, "--output", str(tmp_path / "scores.json")]) == 0

        found = written(tmp_path / "scores.json")["protocols"][f"chatglm-6b:{limit}"]
        published = score([text[::-1] for text in cut], cut)
        assert {metric: found[metric]["value"] for metric in METRICS} == pytest.approx({metric: published[metric] for metric in METRICS})
        assert found["references_cut_to"] == limit - 2
        assert f"references cut here to {limit - 2} tokens, as published" in capsys.readouterr().out


def test_cut_and_whole_references_stand_side_by_side(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_base(tmp_path / "base")

    assert main(["score", str(file), "--protocol", "chatglm-6b", "--protocol", f"chatglm-6b:4:{base}"]) == 0

    said = capsys.readouterr().out
    whole, cut = next(line.split()[1:] for line in said.splitlines() if line.startswith("rouge-1 "))
    assert float(cut) < float(whole)
    assert "References: as the file has them, not cut here." in said
    assert "chatglm-6b:4: references cut here to 2 tokens, as published" in said


def test_references_that_an_evaluation_had_cut_are_reported(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.with_name("scores.json").write_text('{"references_cut_to": 62}', encoding="utf-8")

    assert main(["score", str(file), "--protocol", "chatglm-6b"]) == 0

    assert "`imprint evaluate` had cut them to 62 tokens when it wrote the file." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["{file}", "--protocol", "bleu"],
            'There is no metric protocol "bleu". Allowed: chatglm-6b, words, llamafactory, swift, sacrebleu-zh,',
        ),
        (
            ["{file}", "--protocol", "words:64:x"],
            'words does not truncate references. Write "words"; chatglm-6b:64:models/chatglm-6b truncates them.',
        ),
        (["{file}", "--protocol", "chatglm-6b:64"], "give the max_target_length (4 or more) of the original's evaluation and a folder"),
        (["{file}", "--protocol", "labels:64:x"], 'labels takes nothing after its name. Write "labels".'),
        (["{file}", "--protocol", "chatglm-6b:x:y"], "as in chatglm-6b:64:models/chatglm-6b."),
        (["{file}", "--protocol", "chatglm-6b:64:nowhere"], "nowhere: there is no such folder."),
        (["{file}", "--output", "{file}"], "is the file of predictions itself. Give --output another name."),
        (["nowhere.jsonl"], "nowhere.jsonl: there is no such file."),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(words: list[str], sentence: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = file.read_bytes()

    assert main(["score", *(word.format(file=file) for word in words)]) == 2

    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert "Traceback" not in said
    assert file.read_bytes() == before


def test_translations_labels_and_exact_answers_stand_beside_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, wanted = ["好评", "好评", "", "差评"], ["好评", "差评", "好评", "差评"]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps({"label": label, "prediction": text}) + "\n" for text, label in zip(said, wanted, strict=True)))
    names = ("words", "sacrebleu-zh", "labels", "exact")
    asked = [part for name in names for part in ("--protocol", name)]

    assert main(["score", str(path), *asked, "--output", str(tmp_path / "scores.json")]) == 0

    found = written(tmp_path / "scores.json")["protocols"]
    assert tuple(found) == names
    assert found["labels"]["accuracy"]["value"] == found["exact"]["exact"]["value"] == 50
    assert found["labels"]["confusion"] == [[1, 0, 1], [1, 1, 0]]
    assert "tok:zh" in found["sacrebleu-zh"]["signatures"]["bleu"]
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    assert len(lines["rouge-1"]) == len(lines["accuracy"]) == 1
    assert "labels: macro-f1: mean of the labels' F1" in printed


def test_references_of_one_label_are_no_classification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"label": "好评", "prediction": "好评"}) + "\n", encoding="utf-8")
    assert main(["score", str(path), "--protocol", "labels"]) == 2
    assert "the references hold one label (好评); each row needs one" in capsys.readouterr().err


def scored_file(path: Path, *pairs: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"predict": said, "label": wanted}) + "\n" for said, wanted in pairs), encoding="utf-8")
    return path


def test_special_tokens_in_answers_and_references_are_counted_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [("你好", "你好<|im_end|>\n"), ("<|endoftext|>", "好"), ("<｜end▁of▁sentence｜>", "好</s>"), ("好", "好")]

    assert main(["score", str(scored_file(tmp_path / "p.jsonl", *pairs)), "--output", str(tmp_path / "scores.json")]) == 0

    said = capsys.readouterr().out
    assert "warning: 2 of 4 answers hold special tokens (<|endoftext|> in 1, <｜end▁of▁sentence｜> in 1); 2 hold nothing else," in said
    assert "warning: 2 of 4 references hold special tokens (<|im_end|> in 1, </s> in 1). They are scored as text" in said
    assert written(tmp_path / "scores.json")["control_tokens"]["references"] == {"<|im_end|>": 1, "</s>": 1}


def test_thoughts_that_references_do_not_have_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thoughtful = "<think>想</think>好"
    pairs = [(thoughtful, "好"), (thoughtful, thoughtful), ("好", "好")]

    assert main(["score", str(scored_file(tmp_path / "p.jsonl", *pairs))]) == 0

    assert "warning: 1 of 3 answers hold thoughts (</think>), and their references none." in capsys.readouterr().out


def test_empty_references_are_counted_and_refused_where_all_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(scored_file(tmp_path / "some.jsonl", ("好", " "), ("好", "好")))]) == 0
    assert "warning: 1 of 2 references are empty; such a row scores 0" in capsys.readouterr().out

    assert main(["score", str(scored_file(tmp_path / "all.jsonl", ("好", ""), ("好", " \n")))]) == 2
    assert 'all.jsonl: all 2 references are empty ("label"), so there is nothing to score against.' in capsys.readouterr().err
