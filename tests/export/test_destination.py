from pathlib import Path

import pytest

from imprint.export.destination import refuse_destination, with_file_name
from imprint.messages import UserError


def refusal(out: Path, *reads: Path) -> str:
    with pytest.raises(UserError) as caught:
        refuse_destination(out, reads, written_before=lambda folder: (folder / "ours").is_file(), otherwise="is no work of ours")
    return str(caught.value)


def test_a_place_without_a_name_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")

    assert with_file_name(Path()) == tmp_path / "inner"
    assert with_file_name(Path("..")) == tmp_path
    assert with_file_name(Path("out")) == Path("out")


def test_a_link_is_written_where_it_leads(tmp_path: Path) -> None:
    for name, target in (("out", "big"), ("next", "out"), ("nowhere", "new"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "big").mkdir()

    assert with_file_name(tmp_path / "next") == tmp_path / "big"
    assert with_file_name(tmp_path / "nowhere") == tmp_path / "new"
    with pytest.raises(UserError, match="loop: is a link that leads back to itself"):
        with_file_name(tmp_path / "loop")


def test_what_is_read_is_never_written_over_though_it_be_our_own(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "ours").touch()

    assert f"{base}: holds {base}, which is read. Give a folder of its own to write to." in refusal(base, base)
    assert f"{tmp_path}: holds {base}, which is read." in refusal(tmp_path, Path("/"), base)
    refuse_destination(base / "out", [base], written_before=lambda _folder: False, otherwise="")


def test_only_a_new_place_an_empty_folder_and_our_own_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("empty", "theirs", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "theirs" / "thesis.doc").touch()
    (tmp_path / "mine" / "ours").touch()

    assert "file: is a file." in refusal(tmp_path / "file")
    assert "theirs: is there already and is no work of ours, so it is not replaced." in refusal(tmp_path / "theirs")
    for name in ("empty", "mine", "new"):
        refuse_destination(tmp_path / name, [], written_before=lambda folder: (folder / "ours").is_file(), otherwise="")
