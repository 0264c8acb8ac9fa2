import os
from pathlib import Path

import pytest

from imprint.files import atomic, links
from imprint.messages import UserError


def fill(path: Path, text: str) -> None:
    with atomic.atomic_folder(path) as folder:
        (folder / "weights").write_text(text)


def test_a_strangers_link_under_a_temporary_name_is_not_followed(tmp_path: Path) -> None:
    """An untrusted folder may hold `.report.html.part -> ~/.bashrc`."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.mkdir()
    run.mkdir()
    (mine / "bashrc").write_text("mine")
    for name in (".report.html.part", ".out.tar.part"):
        (run / name).symlink_to(mine / "bashrc")
    for name in (".adapter.part", ".adapter.old", ".gone.old"):
        (run / name).symlink_to(mine)
    atomic.write_text(run / "report.html", "page")
    with atomic.atomic_file(run / "out.tar") as part:
        part.write_text("archive")
    fill(run / "adapter", "1")
    fill(run / "adapter", "2")
    atomic.remove_leftovers(run)
    assert sorted(os.listdir(run)) == ["adapter", "gone", "out.tar", "report.html"]
    assert [(mine / "bashrc").read_text(), os.listdir(mine)] == ["mine", ["bashrc"]]


def test_no_link_out_of_a_folder_and_no_pipe_in_it_is_read(tmp_path: Path) -> None:
    run, deep = tmp_path / "run", tmp_path / "run" / "evaluations" / "dev"
    deep.mkdir(parents=True)
    (deep / "answers.jsonl").touch()
    (run / "inside").symlink_to(deep)
    links.refuse_special_entries(run, run)
    (deep / "scores.json").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"scores.json: is a link to .*mine, outside of its folder, and is neither read nor copied"):
        links.refuse_special_entries(run, run / "evaluations")
    (deep / "scores.json").unlink()
    (deep / "scores.json").symlink_to("scores.json")
    with pytest.raises(UserError, match="is a link that leads back to itself"):
        links.refuse_special_entries(run, run / "evaluations")
    (deep / "scores.json").unlink()
    os.mkfifo(deep / "scores.json")
    with pytest.raises(UserError, match=r"scores.json: is neither a file nor a folder"):
        links.refuse_special_entries(run, run / "evaluations")


def test_what_lies_where_a_link_in_a_folder_leads_is_looked_at_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evaluations").mkdir(parents=True)
    (run / "elsewhere").mkdir()
    (run / "evaluations" / "dev").symlink_to("../elsewhere")
    (run / "elsewhere" / "back").symlink_to("../evaluations")
    links.refuse_special_entries(run, run / "evaluations")
    (run / "elsewhere" / "scores.json").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"scores.json: is a link to .*mine, outside of its folder"):
        links.refuse_special_entries(run, run / "evaluations")


def test_folders_in_folders_are_refused_before_python_gives_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    deep = run / "adapter"
    deep.mkdir(parents=True)
    try:
        for _ in range(1500):
            (deep / "a").mkdir()
            deep = deep / "a"
        with pytest.raises(UserError, match=r"adapter: has folders in folders, 32 levels deep, as nothing has that Imprint writes"):
            links.refuse_special_entries(run, run / "adapter")
    finally:
        while deep != run:  # pytest cannot remove them
            deep.rmdir()
            deep = deep.parent


def test_levels_of_folders_are_counted_where_they_are_though_links_lead_in_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    deep = [run / "adapter" / "/".join("d" * number) for number in range(1, 91)]
    deep[-1].mkdir(parents=True)
    for place, target in ((run / "adapter", deep[60]), (deep[60], deep[30])):
        for number in range(30):  # whatever comes first in a folder, it is one of them
            (place / f"link{number}").symlink_to(target)
    with pytest.raises(UserError, match=r"adapter: has folders in folders, 32 levels deep, as nothing has that Imprint writes"):
        links.refuse_special_entries(run, run / "adapter")
