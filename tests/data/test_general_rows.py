import json
from pathlib import Path

import pytest

from imprint.data.general_rows import general_per_epoch, load_general_rows
from imprint.data.section import GENERAL_FILE, MixSection
from imprint.messages import UserError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    rows = [{"question": f"问{number}", "answer": "好"} for number in range(3)]
    (tmp_path / GENERAL_FILE).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return tmp_path


def test_a_base_brings_its_own_rows_and_any_file_may_take_their_place(base: Path, tmp_path: Path) -> None:
    found = load_general_rows(MixSection(), base)
    assert ([sample.query for sample in found.samples], found.source) == (["问0", "问1", "问2"], str(base / GENERAL_FILE))
    named = tmp_path / "mine.jsonl"
    named.write_text('{"instruction": "a", "output": "b"}\n')
    assert [sample.query for sample in load_general_rows(MixSection(rows=str(named)), base).samples] == ["a"]
    assert len(load_general_rows(MixSection(rows=f"{base / GENERAL_FILE}#2"), base).samples) == 2


def test_a_base_without_general_rows_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no general rows \(general\.jsonl\)\. Give a file .*data\.mix_general=null"):
        load_general_rows(MixSection(), tmp_path)


@pytest.mark.parametrize(("own", "share", "general"), [(20, 0.5, 20), (20, 0.2, 5), (20, 0.8, 80), (1, 0.01, 1)])
def test_the_share_is_that_of_an_epoch(own: int, share: float, general: int) -> None:
    assert general_per_epoch(own, share) == general
