"""Everything that the README, and the pages about its commands, tell to type, typed in order in an empty folder.

Three things differ from what a reader has. A `make` target is looked up and not made: `.ci/run` makes them. `imprint` takes two steps
and asks two rows: `SMALL` stands behind each of its commands. Where the README says /path/to/chatglm-6b there is a tiny one.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.evaluate import EvaluateSection
from tests.tiny import tiny_base

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
SMALL = {
    "train": ["train.steps=2", "train.batch_size=2", "train.watch_prompts=0", "data.dev_rows=2", "data.train_rows=8"],
    "evaluate": ["--limit", "2", "max_new_tokens=4"],
    "compare": ["--limit", "2", "max_new_tokens=4"],
}
SHELL = """\
make() { command make --dry-run "$@" > /dev/null; }
imprint() { printf '%s\\0' "$@" >> commands; echo >> commands; }
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The (language, text) of what a page tells to type."""
    return [(match[1], match[2]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def typed(block: str, folder: Path) -> list[list[str]]:
    """Run a block in a shell; returns the arguments of each `imprint` in it."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", SHELL + block], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}\n{done.stderr}"
    noted = folder / "commands"
    lines = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    noted.unlink(missing_ok=True)
    return [line.split("\0")[:-1] for line in lines]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a reader's clone has, and a base in the place of the official one."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    tiny_base(tmp_path / "chatglm-6b")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_all(page: Path, desk: Path) -> None:
    """Do what a page tells to type, from its first block to its last."""
    for language, block in blocks(page):
        text = block.replace("/path/to/chatglm-6b", str(desk / "chatglm-6b"))
        if language == "python":
            exec(compile(text, page.name, "exec"), {"__name__": page.name})
            continue
        for command in typed(text, desk):
            assert main([*command, *SMALL.get(command[0], [])]) == 0, f"{page.name}: {' '.join(command)}"


def test_all_that_the_readme_and_the_pages_about_its_commands_tell_to_type_works(desk: Path) -> None:
    type_all(ROOT / "README.md", desk)
    assert (desk / "runs" / "demo" / "compare.html").is_file()
    for name in ("training.md", "evaluation.md", "metrics.md", "models.md"):
        type_all(ROOT / "docs" / name, desk)
    assert (desk / "runs" / "as-the-original" / "scores.json").is_file()


def test_the_page_about_evaluation_has_every_knob() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [knob for knob in EvaluateSection.model_fields if f"`{knob}`" not in page] == []


def test_both_readmes_have_the_same_python() -> None:
    english, chinese = (
        [re.sub(r"\s*#.*", "", block) for language, block in blocks(ROOT / name) if language == "python"]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese
    assert english


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_pictures_stay_small() -> None:
    assert sum(picture.stat().st_size for picture in (ROOT / "docs" / "images").iterdir()) < 600_000
