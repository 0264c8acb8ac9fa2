import json
from pathlib import Path

import pytest

from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from tests.worlds import Outcome


@pytest.mark.parametrize(
    ("name", "other"), [("alone", "full-two"), ("prefix", "prefix-two"), pytest.param("means", "means-two", marks=pytest.mark.long)]
)
def test_two_processes_learn_as_one(name: str, other: str, request: pytest.FixtureRequest) -> None:
    outcomes: dict[str, Outcome] = request.getfixturevalue("rarer")[1] if name == "means" else request.getfixturevalue("outcomes")
    one, two = outcomes[name], outcomes[other]
    assert (one.statuses, two.statuses) == ([0], [0, 0]), two.words
    assert len(one.losses) == 7
    assert two.losses == pytest.approx(one.losses, abs=2e-5)
    assert two.norms == pytest.approx(one.norms, rel=1e-3)
    assert "are trained by 2 processes" in two.words


def test_forgetting_is_measured_once_with_the_same_result(folder: Path, outcomes: dict[str, Outcome]) -> None:
    alone, two = ({**json.loads((folder / run / "forgetting.json").read_text()), "seconds": 0} for run in ("alone", "full-two"))
    for name in ("kl", "tuned_loss"):
        assert two.pop(name) == pytest.approx(alone.pop(name), rel=1e-3)
    assert two == alone
    assert outcomes["full-two"].words.count("of neutral text KL divergence") == 1
    assert outcomes["full-two"].words.count("report.html") == 1
    assert (folder / "full-two" / "report.html").is_file()


def test_all_processes_go_back_together_when_the_answers_of_the_main_process_break(folder: Path, outcomes: dict[str, Outcome]) -> None:
    alone, two = (read_jsonl(folder / run / "rescues.jsonl") for run in ("broken", "broken-two"))
    assert "the watched answers have become endless repetition" in alone[0]["reason"]
    assert outcomes["broken-two"].statuses == [0, 0], outcomes["broken-two"].words
    assert [line["back_to"] for line in two] == [line["back_to"] for line in alone]
    assert outcomes["broken-two"].losses == pytest.approx(outcomes["broken"].losses, abs=1e-3)


def test_raw_text_is_tokenized_by_the_main_process_however_long_it_takes(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["texts-two"].statuses == [0, 0], outcomes["texts-two"].words
    assert len(outcomes["texts"].losses) == 7
    assert outcomes["texts-two"].losses == pytest.approx(outcomes["texts"].losses, abs=2e-5)


@pytest.mark.long
def test_all_processes_learn_what_the_first_one_has_answered(rarer: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = rarer
    alone, pair, sharded = runs = [outcomes[name] for name in ("asked", "asked-two", "asked-fsdp")]
    assert [run.statuses for run in runs] == [[0], [0, 0], [0, 0]], pair.words + sharded.words
    kept = [list(read_jsonl(RunFolder(folder / name).general_answers)[1:]) for name in ("asked", "asked-two", "asked-fsdp")]
    assert kept[0] == kept[1] == kept[2] != []
    assert pair.losses == pytest.approx(alone.losses, rel=1e-4)
    assert sharded.losses == pytest.approx(alone.losses, rel=1e-4)


def test_only_the_main_process_prints(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["full-two"].words.count("finished: 4 of 4 steps are done") == 1


@pytest.mark.long
def test_each_process_resumes_with_its_own_random_state(rarer: tuple[Path, dict[str, Outcome]]) -> None:
    outcomes = rarer[1]
    assert "resuming after step 2 of 4" in outcomes["dropped-again"].words
    assert outcomes["dropped-again"].losses == outcomes["dropped"].losses
