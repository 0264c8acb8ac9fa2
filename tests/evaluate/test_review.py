import json
import re
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.config import read_recipe
from imprint.evaluate import review
from imprint.evaluate.compare import compare
from imprint.evaluate.results_lock import results_lock
from imprint.evaluate.review import forgetting_command, read_review, report_command, review_finished, run_samples
from imprint.evaluate.training_rows import load_training_rows
from imprint.files.atomic import read_jsonl
from imprint.forgetting.result import Forgetting, ProbeResult
from imprint.forgetting.section import ForgettingSection
from imprint.inference.sampling import NotFiniteError
from imprint.loading.run import RunConfig
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.model import Model
from imprint.report.starts import read_starts
from imprint.runs import RunFolder
from imprint.terminal import CONTROLS
from tests.bases import base_of
from tests.tinyrun import losses, tiny_recipe, tiny_run

MEASURED = ("forgetting.measure=true", "forgetting.limit=3", "forgetting.text_tokens=40", "forgetting.max_new_tokens=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A prefix run that was measured at its end."""
    return tiny_run(tiny_recipe(tmp_path_factory.mktemp("tiny")), "measured", *MEASURED, "forgetting.shown_rows=2")


def test_a_run_ends_with_what_it_has_taken_from_its_base(run: RunFolder) -> None:
    found, rows = read_review(run)
    values = json.loads(run.forgetting.read_text(encoding="utf-8"))
    assert found is not None
    assert len(found.rows) == values["asked"] == 3
    assert values["kl"] == found.kl
    assert found.kl is not None
    assert found.kl > 0
    assert [row.held_out for row in rows] == [True, True]
    assert rows[0].question.startswith("类型#")


def test_the_command_measures_an_old_run_again_and_shows_what_was_lost(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.forgetting.read_text(encoding="utf-8")
    forgetting_command(run.path, ["limit=2"])
    printed = capsys.readouterr().out
    assert "asking both models 询问两个模型: 8/8" in printed  # two questions and two own rows, twice
    assert "KL divergence" in printed
    assert "遗忘评估" in printed
    assert f"written to {run.forgetting}" in printed
    assert len(json.loads(run.forgetting.read_text(encoding="utf-8"))["rows"]) == 2
    forgetting_command(run.path, [])
    again, first = json.loads(run.forgetting.read_text(encoding="utf-8")), json.loads(before)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_lost_answers_cannot_steer_the_terminal(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b]0;title\x07\x9b\u202e"
    lost = Forgetting((ProbeResult(hostile, (), f"base {hostile}", f"tuned {hostile}", "lost"),), 0.5, 5, "a", "b", 1.0)
    monkeypatch.setattr("imprint.evaluate.review.review", lambda *_arguments: lost)
    monkeypatch.setattr("imprint.evaluate.review.write_run_report", lambda *_arguments: None)
    forgetting_command(run.path, [])
    printed = capsys.readouterr().out
    assert "tuned \ufffd]0;title" in printed
    assert not CONTROLS.search(printed)


def test_what_all_parameters_learned_is_measured_against_the_base_loaded_again(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "whole", "tune={method: full}", *MEASURED)
    found, _ = read_review(run)
    assert found is not None
    assert found.kl is not None
    assert found.kl > 0
    assert (run.model / "config.json").is_file()


def test_a_run_that_is_not_to_be_measured_leaves_no_file(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "quiet")
    assert not run.forgetting.exists()
    assert read_review(run) == (None, [])


def test_a_model_folder_and_broken_files_are_reported(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a model folder, and nothing was tuned"):
        forgetting_command(run.path.parent / "base", [])
    (tmp_path / "forgetting.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"forgetting\.json: is not JSON"):
        read_review(RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *[("forgetting.json", {"tokens": value}) for value in ("<b>", None, 1.5)],
        *[("forgetting.json", {"kl": "<b>"}), ("forgetting.json", {"rows": 5}), ("forgetting.json", {"probes_from": None})],
        ("forgetting.json", {"rows": [{"question": "x", "keys": [], "base": "x", "tuned": "x", "fate": "evil"}]}),
        ("forgetting.json", {"rows": [{"question": 5, "keys": [], "base": None, "tuned": "x", "fate": "lost"}]}),
        *[("verdict.json", value) for value in (5, {"a": 1}, [["one"]], [["a", 5]], ["ab"])],
        *[("before-after.jsonl", value) for value in (5, {"question": "x"}, {"held_out": 1})],
        *[("log.jsonl", value) for value in (5, {"step": "<b>"}, {"step": 1, "loss": "x"}, {"event": "finished", "step": 1})],
    ],
)
def test_a_report_is_not_written_from_what_imprint_did_not_write(run: RunFolder, name: str, change: object) -> None:
    file = run.path / name
    before = file.read_bytes() if file.exists() else b"[]"
    value = {**json.loads(before), **change} if name == "forgetting.json" and isinstance(change, dict) else change
    file.write_text(json.dumps(value) + "\n", encoding="utf-8")
    try:
        with pytest.raises(UserError, match=rf"{re.escape(name)}(:1)?: "):
            report_command(run.path)
    finally:
        file.write_bytes(before)


def test_more_examples_than_a_page_holds_are_refused(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    report_command(run.path)
    for name, most in (("MAX_EXAMPLES", 1), ("MAX_CHARACTERS", 10)):
        with monkeypatch.context() as patched:
            patched.setattr(review, name, most)
            with pytest.raises(UserError, match=r"before-after\.jsonl: \d+ examples of \d+ characters are too many for one page"):
                report_command(run.path)


def test_what_cannot_be_measured_spoils_no_finished_run(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Model, *_: object) -> None:
        raise NotFiniteError(0, 1)

    monkeypatch.setattr(Model, "generate", broken)
    said: list[str] = []
    review_finished(run.path, ForgettingSection(limit=1), said.append, report=False)
    assert len(said) == 1
    assert said[0].startswith("forgetting was not measured: prompt 1 of 1:")


def test_a_report_that_cannot_be_written_spoils_no_finished_run(run: RunFolder) -> None:
    before = run.forgetting.read_text(encoding="utf-8")
    run.forgetting.write_text("{", encoding="utf-8")
    said: list[str] = []
    review_finished(run.path, ForgettingSection(measure=False), said.append, report=True)
    run.forgetting.write_text(before, encoding="utf-8")
    assert len(said) == 1
    assert said[0].startswith("the report was not written: ")


def test_questions_that_cannot_be_read_are_reported_before_the_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        tiny_run(recipe, "early", "forgetting.measure=true", f"forgetting.probes={tmp_path}/gone.jsonl")
    assert not (tmp_path / "early").exists()


def test_rows_that_were_learned_stand_in_where_none_was_held_out_and_lost_files_are_no_end(run: RunFolder) -> None:
    known = resolve_source(run.path).run
    assert known is not None
    without = known.model_copy(update={"data": known.data_section.model_copy(update={"dev_share": 0.0})})
    samples, held_out, note = run_samples(without, run, ForgettingSection(shown_rows=3))
    assert (len(samples), held_out, note) == (3, False, None), "those that it held out are known"
    gone: RunConfig = known.model_copy(update={"data": known.data_section.model_copy(update={"train": Path("gone.jsonl")})})
    samples, held_out, note = run_samples(gone, run, ForgettingSection())
    assert (samples, held_out) == ([], False)
    assert note is not None
    assert note.english.startswith("gone.jsonl: there is no such file.")
    assert note.english.endswith("No rows of the run are shown before and after.")


def test_a_run_with_filled_rows_asks_them_all(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"content": "类型#上衣{number}", "summary": "{{name}}"}}\n' for number in range(40)), encoding="utf-8")
    run = tiny_run(recipe, "filled", *MEASURED, "data.fill.name=上衣", "train.steps=1", "data.dev_share=0.5")
    assert len(read_jsonl(run.before_after)) == 20
    assert {line["reference"] for line in read_jsonl(run.before_after)} == {"上衣"}


def test_a_run_that_learned_calls_of_tools_is_asked_for_them(tmp_path: Path) -> None:
    tool = [{"name": "天气", "parameters": {}}]
    turns = [
        {"role": "user", "content": "上衣？"},
        {"role": "assistant", "metadata": "天气", "content": "{}"},
        {"role": "observation", "content": "白色"},
        {"role": "assistant", "content": "白色。"},
    ]
    rows = tmp_path / "tools.jsonl"
    rows.write_text("".join(json.dumps({"tools": tool, "messages": turns}) + "\n" for _ in range(4)), encoding="utf-8")
    base = base_of("ChatGLM3-6B", tmp_path / "glm3")
    knobs = [f"model.path={base}", f"data={{train: {rows}, dev_share: 0.5}}", "tune={method: lora, rank: 2}", "train.steps=1", *MEASURED]
    run = tiny_run(tiny_recipe(tmp_path), "tools", *knobs)
    assert [line["reference"] for line in read_jsonl(run.before_after)] == ["{}", "白色。"] * 2
    known = resolve_source(run.path)
    assert len(load_training_rows(known, tools=True).samples) == 4
    assert load_training_rows(known, tools=False).samples == []  # of a template without tools


def test_general_rows_change_nothing_of_what_a_resumed_run_ends_with(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    general = tmp_path / "general.jsonl"
    general.write_text("".join(f'{{"content": "颜色{number}", "summary": "白色"}}\n' for number in range(9)), encoding="utf-8")
    knobs = [f"data.mix_general={{rows: {general}, share: 0.4}}", "optimizer.schedule=constant", "optimizer.warmup_steps=0"]
    whole = tiny_run(recipe, "whole", *knobs)
    tiny_run(recipe, "stopped", *knobs, "train.steps=3")
    resumed = tiny_run(recipe, "stopped", *knobs)
    assert losses(resumed) == losses(whole)
    assert read_recipe(whole.config, [], RunConfig).data_section.files[-1] == str(general)
    with pytest.raises(UserError, match=rf"{general}: is not what this run began with"):
        general.write_text('{"content": "颜色", "summary": "白色"}\n', encoding="utf-8")
        tiny_run(recipe, "whole", *knobs, "train.steps=9")


def test_the_report_of_a_run_is_one_page_written_at_its_end_or_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "told", *MEASURED, "train.report=true")
    page = run.report.read_text(encoding="utf-8")
    for words in (
        "told (prefix)",
        "evaluation loss",
        "Abilities of the base",
        "Your data, before and after",
        "learning_rate: 0.1",
        "verdict:",
    ):
        assert words in page, words
    run.report.unlink()
    run.forgetting.unlink()
    report_command(run.path)
    assert run.forgetting.is_file()
    assert f"open {run.report}" in capsys.readouterr().out
    assert run.report.read_text(encoding="utf-8") == page
    forgetting_command(run.path, ["limit=2"])
    assert "KL over" in page
    assert run.report.read_text(encoding="utf-8") != page  # it shows what was measured last
    with pytest.raises(UserError, match="is a model folder"):
        report_command(tmp_path / "base")


def test_a_run_without_rows_to_ask_shows_what_was_watched(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "watched", "train.report=true")
    page = run.report.read_text(encoding="utf-8")
    assert "Not measured" in page
    assert "the first answer and the last" in page


def test_an_evaluation_updates_the_report(tmp_path: Path) -> None:
    run = tiny_run(tiny_recipe(tmp_path), "scored", "train.report=true")
    assert "ROUGE-L" not in run.report.read_text(encoding="utf-8")
    compare(run.path, limit=2, overrides=["max_new_tokens=4"])
    page = run.report.read_text(encoding="utf-8")
    assert "on 2 rows of held-out-first-2" in page
    assert [start.processes for start in read_starts(run)] == [1]


def test_a_second_measurement_of_a_run_is_refused_while_one_is_at_work(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with results_lock(run.path):
        assert main(["forgetting", str(run.path), "limit=1"]) == 2
    assert "another process writes results into this folder" in capsys.readouterr().err
