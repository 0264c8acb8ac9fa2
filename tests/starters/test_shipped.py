import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.messages import UserError
from imprint.starters import shipped
from imprint.starters.shipped import demo_command, find_recipe, recipes_folder, shipped_recipes

ROOT = Path(__file__).parents[2]
QUICK = ("train.steps=1", "train.batch_size=2", "train.micro_batch_size=2", "train.watch_prompts=0", "data.dev_rows=2", "data.train_rows=8")


@pytest.mark.parametrize("given", ["demo", "demo.yaml", "recipes/demo.yaml"])
def test_a_recipe_is_found_by_its_name_in_any_folder(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path(given)) == ROOT / "recipes" / "demo.yaml"


def test_a_file_of_ones_own_comes_first_and_other_paths_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").touch()
    Path("demo").mkdir()
    Path("demo/recipe.yaml").touch()
    assert find_recipe(Path("demo")) == Path("demo/recipe.yaml")
    for path in ("demo.yaml", "mine/demo.yaml", "mine.yaml", str(tmp_path / "other")):
        assert find_recipe(Path(path)) == Path(path)


def test_a_name_that_no_recipe_has_is_answered_with_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"dmo: there is no such file, and no recipe of this name. Did you mean demo\? These come .*adgen-full"
    ) as told:
        find_recipe(Path("dmo"))
    assert "是否想写 demo？自带的配方：adgen-full" in str(told.value)


def test_an_installed_package_has_its_recipes_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "imprint")
    shutil.copytree(ROOT / "recipes", tmp_path / "imprint" / "recipes")
    assert recipes_folder() == tmp_path / "imprint" / "recipes"
    assert shipped_recipes().keys() == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}


def test_the_demo_trains_by_its_name_and_makes_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "demo", *QUICK, "forgetting.measure=false"]) == 0
    told = capsys.readouterr().out
    assert "making the rows of this recipe first, as `imprint demo rows runs/demo-data` does / 先生成这份配方的数据" in told
    assert Path("runs/demo/adapter").is_dir()
    assert demo_command(ROOT / "recipes" / "demo.yaml", Path("mine/train.jsonl")) is None
    assert demo_command(ROOT / "recipes" / "domain-pretrain.yaml", Path("runs/kiln/read")) == ["demo", "kiln", "runs/kiln"]


@pytest.mark.long
def test_the_wheel_holds_the_recipes_and_the_starters(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    if (done := subprocess.run(command, capture_output=True, encoding="utf-8", check=False)).returncode:
        pytest.skip(f"no wheel can be built here: {done.stderr[-200:]}")
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"imprint/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")} <= set(names)
    assert "imprint/starters/recipes/identity.yaml" in names
