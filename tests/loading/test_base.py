import shutil
from pathlib import Path

import pytest

from imprint.loading.base import EMBEDDED, base_folder, base_of_run, run_of_base
from imprint.messages import UserError
from imprint.runs import RunFolder
from tests.tinyrun import tiny_recipe, tiny_run


def test_a_model_folder_is_its_own_base_and_the_embedded_one_has_a_name(tmp_path: Path) -> None:
    assert base_folder(tmp_path) == tmp_path
    assert (base_folder(EMBEDDED) / "config.json").is_file()
    assert run_of_base(tmp_path) is None
    assert run_of_base(EMBEDDED) is None


def test_a_run_is_its_tuned_model_or_the_base_of_its_adapter(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    full = tiny_run(recipe, "full", "tune={method: full}", "train.steps=1")
    lora = tiny_run(recipe, "lora", f"model.path={full.path}", "tune={method: lora, rank: 2}", "train.steps=1")
    assert base_folder(full.path) == full.model
    assert base_of_run(lora) == full.path
    assert base_folder(lora.path) == full.model
    assert run_of_base(lora.path) == RunFolder(lora.path)
    shutil.rmtree(lora.adapter)
    with pytest.raises(UserError, match="is a run that has no result yet"):
        base_folder(lora.path)
