import json
import re
import shutil
from pathlib import Path

import pytest

import imprint.evaluate.answering as answering
from imprint.cli import main
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from tests.tinyrun import talking_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return talking_run(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def rows(run: RunFolder) -> Path:
    return run.path.parent / "rows.jsonl"


def test_both_pages_show_label_and_both_answers(run: RunFolder, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "6"]) == 0
    markdown = (run.path / "compare.md").read_text(encoding="utf-8")
    page = (run.path / "compare.html").read_text(encoding="utf-8")
    base, tuned = (read_jsonl(run.evaluations / name / "predictions.jsonl") for name in ("rows-first-6-base", "rows-first-6"))
    assert len(base) == len(tuned) == 6
    assert any(one["prediction"] != other["prediction"] for one, other in zip(base, tuned, strict=True))
    for one, other in zip(base, tuned, strict=True):
        assert all(text in markdown for text in (one["label"], one["prediction"], other["prediction"]))
        assert one["label"] in page
    printed = capsys.readouterr().out
    assert f"6 rows compared; open {run.path / 'compare.html'}" in printed
    assert "rouge-l" in printed
    assert all(metric in markdown and metric.upper() in page for metric in ("rouge-1", "rouge-2", "rouge-l", "bleu-4"))
    assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(""", page)  # nothing is loaded from elsewhere


def test_answers_that_an_evaluation_left_are_taken(run: RunFolder, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for base in ("true", "false"):
        assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "5", f"base={base}"]) == 0

    def refuse(*arguments: object) -> list[list[int]]:
        raise AssertionError("answered again")

    monkeypatch.setattr(answering, "_answer_batch", refuse)
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "5"]) == 0


def test_without_a_file_the_held_out_rows_are_asked(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run.path)]) == 0
    assert "5 rows compared" in capsys.readouterr().out
    for page in ("compare.html", "compare.md"):
        assert f"{run.path.parent / 'other.jsonl'}, its held-out rows / 其中留出的行" in (run.path / page).read_text(encoding="utf-8")
    assert main(["compare", str(run.path), "--limit", "2"]) == 0
    assert "2 rows compared" in capsys.readouterr().out
    assert main(["compare", str(run.path), "--data", str(run.path.parent / "other.jsonl"), "--limit", "2"]) == 0
    assert "warning: 2 of these 2 rows are rows that the run learned from" in capsys.readouterr().out


def test_sampling_is_reported_on_the_page(run: RunFolder, rows: Path) -> None:
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "3", "temperature=0.9", "top_p=0.8", "seed=4"]) == 0
    assert "sampled, temperature 0.9, top\\_p 0.8" in (run.path / "compare.md").read_text(encoding="utf-8")


def test_beams_are_reported_on_the_page(run: RunFolder, rows: Path) -> None:
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "2", "num_beams=2"]) == 0
    assert "decoding: 2 beams" in (run.path / "compare.md").read_text(encoding="utf-8")


def test_questions_of_ones_own_are_answered_by_both_and_not_scored(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(run.path)]) == 0
    held_out = (run.path / "compare.html").read_bytes()
    (tmp_path / "mine.txt").write_bytes("类型#上衣*颜色#白色\n\n类型#裤*颜色#黑色\n".encode("gb18030"))
    capsys.readouterr()
    assert main(["compare", str(run.path), "--prompts", str(tmp_path / "mine.txt")]) == 0
    printed = capsys.readouterr().out
    assert f"2 questions compared; open {run.path / 'compare-mine.html'}" in printed
    assert "never-ending answers" in printed
    assert (run.path / "compare.html").read_bytes() == held_out
    page, markdown = ((run.path / f"compare-mine.{ending}").read_text(encoding="utf-8") for ending in ("html", "md"))
    for text in (page, markdown):
        assert not any(word in text.lower() for word in ("rouge", "bleu", "chatglm-6b"))
    for name in ("prompts-mine-base", "prompts-mine"):
        for line in read_jsonl(run.evaluations / name / "predictions.jsonl"):
            assert line["prediction"] in markdown
            assert line["label"] == ""
    scores = json.loads((run.evaluations / "prompts-mine" / "scores.json").read_text(encoding="utf-8"))
    assert "protocol" not in scores
    assert (scores["rows"], scores["unfinished_share"]) == (2, 0.0)


def test_rows_of_data_ask_their_questions_only(run: RunFolder, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run.path), "--prompts", str(rows), "--limit", "3"]) == 0
    assert "3 questions compared" in capsys.readouterr().out
    assert "rouge" not in (run.path / "compare-rows.md").read_text(encoding="utf-8")


def test_another_protocol_and_cut_references_are_reported(run: RunFolder, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knobs = ["protocol=swift", "truncation=original", "max_target_length=12"]
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "3", *knobs]) == 0
    text = (run.path / "compare.md").read_text(encoding="utf-8")
    assert "| swift |" in text
    assert "references: cut to 10 tokens, as ChatGLM-6B's script cuts them" in text
    assert "protocol swift, references cut to 10 tokens" in capsys.readouterr().out


def test_answers_that_never_stop_are_warned_of(run: RunFolder, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "3", "max_new_tokens=2"]) == 0
    sentence = "100% of the answers never stop"
    assert f"warning: Tuned: {sentence}" in capsys.readouterr().out
    assert sentence in (run.path / "compare.html").read_text(encoding="utf-8")
    assert sentence in (run.path / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("knob", ["base=true", "adapter=elsewhere", "output=elsewhere"])
def test_what_the_comparison_decides_cannot_be_set(knob: str, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run.path), knob]) == 2
    assert f"{knob.split('=')[0]}: is set by the comparison itself" in capsys.readouterr().err


def test_the_rows_it_learned_from_need_not_be_there_any_more(run: RunFolder, rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    config = (other / "config.yaml").read_text(encoding="utf-8")
    config = re.sub(r"train: \S+\.jsonl", "train: gone.jsonl", config).replace("dev: null", f"dev: {rows}")
    config = config.replace("dev_rows: null", "dev_rows: 2")
    (other / "config.yaml").write_text(config, encoding="utf-8")
    assert main(["compare", str(other)]) == 0
    assert "gone.jsonl" in config
    assert len(read_jsonl(other / "evaluations" / "held-out" / "predictions.jsonl")) == 2


def test_what_an_evaluation_wrote_stays_as_it_was(run: RunFolder, rows: Path) -> None:
    assert main(["evaluate", str(run.path), "--data", str(rows)]) == 0
    before = {file.name: file.read_bytes() for file in (run.evaluations / "rows").iterdir()}
    assert main(["compare", str(run.path)]) == 0
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "2"]) == 0
    assert {file.name: file.read_bytes() for file in (run.evaluations / "rows").iterdir()} == before
    assert (run.evaluations / "held-out" / "scores.json").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{model}"], "is a model folder, and there is nothing to compare it with. Give a run folder."),
        (["nowhere"], "nowhere: there is no such folder."),
        (["{run}", "--data", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["{run}", "tempature=1"], "tempature"),
        (["{run}", "--data", "{run}/config.yaml", "--prompts", "{run}/config.yaml"], "--data and --prompts: give only one."),
        (["{run}", "--prompts", "nowhere.txt"], "nowhere.txt: there is no such file. Give a text with one question per line"),
        (["{talk}"], "this run holds out no rows. Give a file with --data."),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(words: list[str], sentence: str, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    talk = run.path.parent / "talk"
    places = {"run": run.path, "model": talk / "model", "talk": talk}
    assert main(["compare", *(word.format_map(places) for word in words)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert sentence in printed
    assert "Traceback" not in printed


def test_a_run_without_a_result_is_reported_before_the_base_is_asked(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    begun = run.path.parent / "begun"
    begun.mkdir()
    shutil.copy(run.config, begun / "config.yaml")
    assert main(["compare", str(begun)]) == 2
    printed = capsys.readouterr()
    assert "has no adapter yet" in printed.err
    assert "answering" not in printed.out


def test_a_run_that_tuned_the_whole_network_is_compared_with_its_base(run: RunFolder, rows: Path) -> None:
    talk = RunFolder(run.path.parent / "talk")
    assert main(["compare", str(talk.path), "--data", str(rows), "--limit", "3"]) == 0
    assert "*(empty)*" in (talk.path / "compare.md").read_text(encoding="utf-8")  # the base could not talk yet
    settings = json.loads((talk.evaluations / "rows-first-3" / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    other = json.loads((talk.evaluations / "rows-first-3-base" / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert settings["model"] != other["model"]
