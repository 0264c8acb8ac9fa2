import re
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.config import read_recipe
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from imprint.starters.command import STARTERS
from imprint.training.recipe import Recipe

QUIET = ("train.watch_prompts=0", "train.report=false", "forgetting.measure=false")
QUICK = ("adgen", "identity", "chat")
"""The starters that train in `make test`; each takes a second."""
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(autouse=True)
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in STARTERS])
def test_a_starter_trains_as_it_is_and_cuts_next_to_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", name]) == 0
    assert f"imprint train {name}/recipe.yaml" in capsys.readouterr().out
    assert main(["train", f"{name}/recipe.yaml", "train.steps=1", *QUIET]) == 0
    assert [line["step"] for line in read_jsonl(RunFolder(Path(name, "run")).log) if line.get("loss")] == [1]
    assert main(["data", "check", str(next(Path(name).glob("[br]o*s.*")))]) == 0


@pytest.mark.parametrize("name", STARTERS)
def test_every_section_of_a_starter_is_explained_in_both_languages(name: str) -> None:
    assert main(["init", name, "mine"]) == 0
    text = Path("mine/recipe.yaml").read_text(encoding="utf-8")
    first, second = text.splitlines()[:2]
    assert not CHINESE.search(first)
    assert CHINESE.search(text.partition("\n\n")[0])
    assert second.startswith("#")
    for block in re.findall(r"(?:^ *#.*\n)+", text, re.MULTILINE):
        assert CHINESE.search(block), block
        assert re.search("[a-z]{4}", block), block


def test_without_a_name_all_are_listed_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[1 : len(STARTERS) + 1]] == list(STARTERS)
    assert "identity-lora" in listed[-1]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("guess", "starter"), [("classification", "classify"), ("Translate", "translation"), ("self_cognition", "identity")]
)
def test_other_names_for_the_same_are_understood(guess: str, starter: str) -> None:
    assert main(["init", guess]) == 0
    assert Path(starter, "recipe.yaml").is_file()


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/rows.jsonl").write_text("mine", encoding="utf-8")
    Path("file").touch()
    assert main(["init", "chat", "mine"]) == 2
    assert "mine: holds rows.jsonl already, and nothing is overwritten. Give another folder" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["rows.jsonl"]
    assert Path("mine/rows.jsonl").read_text(encoding="utf-8") == "mine"
    assert main(["init", "chat", "file"]) == 2
    assert "file: this is a file. Give the name of a folder." in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "sumary"]) == 2
    assert 'there is no starter "sumary". Did you mean summary? Give one of identity, adgen,' in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["我的 数据: #1", "a'b", 'say "so"', "deep/er"])
def test_any_folder_can_be_written_to(folder: str) -> None:
    assert main(["init", "identity", folder]) == 0
    recipe = read_recipe(Path(folder, "recipe.yaml"), [], Recipe)
    assert (recipe.output, recipe.data.train) == (Path(folder, "run"), Path(folder, "rows.jsonl"))


def test_a_folder_whose_name_is_no_utf8_is_refused_before_anything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "identity", "mine\udc80"]) == 2
    assert "the name is no UTF-8, so the recipe cannot hold it. Choose another name." in capsys.readouterr().err
    assert list(Path().iterdir()) == []
