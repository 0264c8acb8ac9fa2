"""Everything that the README, and the pages about its commands, tell to type, typed in order in an empty folder.

A few things differ from what a reader has. A `make` target is looked up and not made: `.ci/run` makes them. `imprint` takes two steps
and asks two rows: `SMALL` stands behind each of its commands, also those of the scripts. What is piped into a chat is piped into it here;
where a person would type, it is left at once. Where the pages say /path/to/chatglm-6b there is a tiny one, beside AdvertiseGen/ with
ten rows.
"""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx2
import pytest

from imprint.cli import main
from imprint.compat.ignored_flags import IGNORED_FLAGS
from imprint.demo.bloom import make_bloom
from imprint.evaluate.section import EvaluateSection
from tests.oldproject import old_project

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)")
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
TYPED = (
    "install.md",
    "training.md",
    "lora.md",
    "identity.md",
    "evaluation.md",
    "tasks.md",
    "metrics.md",
    "models.md",
    "data.md",
    "chat.md",
    "export.md",
    "migrating.md",
    "when-a-run-goes-wrong.md",
    "domain.md",
    "families.md",
)
"""Pages that are typed behind the README, in this order."""
LITTLE = ["forgetting.limit=1", "forgetting.text_tokens=20", "forgetting.shown_rows=0", "forgetting.max_new_tokens=2"]
MEASURED = ("README.md", "when-a-run-goes-wrong.md")
"""Pages whose runs measure what was forgotten; those of the others leave it out, which takes longer than their steps."""
SMALL = {
    "train": ["train.steps=2", "train.batch_size=2", "train.watch_prompts=0", "data.dev_rows=2", "data.train_rows=8"],
    "fit": ["train.batch_size=2", "train.micro_batch_size=2", "data.train_rows=8", "data.dev_rows=2"],
    "forgetting": ["limit=1", "text_tokens=20", "shown_rows=1", "max_new_tokens=4"],
    "evaluate": ["--limit", "2", "max_new_tokens=4"],
    "compare": ["--limit", "2", "max_new_tokens=4"],
    "perplexity": ["--limit", "2", "length=64"],
    "demo bloom": ["train.steps=2", "train.batch_size=2", "data.train_rows=8", "data.dev_rows=2"],
    "chat": ["max_length=64"],
    "main": ["--max_steps", "2", "--save_steps", "2", "--gradient_accumulation_steps", "2", "--max_predict_samples", "2", "--no_cuda"],
}
"""What stands behind a command."""
LAST_CHECKPOINT = ("checkpoint-3000", "checkpoint-2")
"""The one that the original's scripts end with, and the one that is there after two steps."""
SHELL = """\
make() { command make --dry-run "$@" > /dev/null; }
imprint() {
    printf '%s\\0' "$@" >> commands
    if [ "$1" = chat ]; then cat >> commands; fi
    printf '\\036' >> commands
}
export -f imprint
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The (language, text) of what a page tells to type."""
    return [(match[1], match[2]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def typed(block: str, folder: Path) -> list[tuple[list[str], str]]:
    """Run a block in a shell; returns the arguments of each `imprint` in it, and what was piped into it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SHELL + block], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stderr}"
    noted = folder / "commands"
    text = noted.read_text(encoding="utf-8") if noted.exists() else ""
    noted.unlink(missing_ok=True)
    found = [command.split("\0") for command in text.split("\36")[:-1]]
    return [(arguments, piped) for *arguments, piped in found]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a reader's clone has, and a base in the place of the official one."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("recipes", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    old_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_knobs(command: list[str], page: str) -> list[str]:
    """What stands behind a command of a page to make it small; a classification generates no tokens that could be fewer."""
    knobs = SMALL.get(" ".join(command[:2]), SMALL.get(command[0], []))
    if command[0] == "train":
        knobs = [*knobs, *(LITTLE if page in MEASURED else ["forgetting.measure=false"])]
    labels = any("classification" in word for word in command)
    return [knob for knob in knobs if not (labels and knob.startswith("max_new_tokens="))]


def type_all(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a page tells to type, from its first block to its last."""
    for language, block in blocks(page):
        text = block.replace("/path/to/chatglm-6b", str(desk / "chatglm-6b"))
        if language == "python":
            exec(compile(text, page.name, "exec"), {"__name__": page.name})
            continue
        for command, piped in typed(text, desk):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
            words = [word.replace(*LAST_CHECKPOINT) for word in [*command, *small_knobs(command, page.name)]]
            status = serve_briefly(words) if command[0] == "serve" else main(words)
            assert status == 0 or (command[:2] == ["data", "check"] and status == 1), f"{page.name}: {' '.join(words)}"


def serve_briefly(words: list[str]) -> int:
    """Start the service that a page tells to start, on a free port, ask whether it is ready, and end it by a signal."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ready, ended = [], threading.Event()

    def ask() -> None:
        while not ended.wait(0.05):
            with suppress(httpx2.ConnectError):
                if httpx2.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                    ready.append(port)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        status = main([*words, f"port={port}"])
    finally:
        ended.set()
        asking.join()
    assert ready == [port]
    return status


@pytest.mark.parametrize("pages", [pytest.param((), id="readme"), pytest.param(TYPED, id="pages", marks=pytest.mark.long)])
def test_all_that_the_readme_and_the_pages_about_its_commands_tell_to_type_works(
    pages: tuple[str, ...], desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imprint.demo.bloom.make_bloom", partial(make_bloom, texts=600))  # to learn its vocabulary from all takes seconds
    type_all(ROOT / "README.md", desk, monkeypatch)
    assert (desk / "runs" / "demo" / "compare.html").is_file()
    assert (desk / "output" / "adgen-chatglm-6b-pt-128-2e-2" / "generated_predictions.txt").is_file()
    for name in pages:
        type_all(ROOT / "docs" / name, desk, monkeypatch)
    for written in ("runs/as-the-original/scores.json", "clean.rejected.jsonl", "talk.jsonl") if pages else ():
        assert (desk / written).is_file(), written


def test_the_page_about_evaluation_has_every_knob() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [knob for knob in EvaluateSection.model_fields if f"`{knob}`" not in page] == []


def test_the_page_about_migrating_names_every_retired_flag() -> None:
    page = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    assert [flag for flag in IGNORED_FLAGS if f"`{flag}`" not in page] == []


def test_both_readmes_have_the_same_python() -> None:
    english, chinese = (
        [re.sub(r"\s*#.*", "", block) for language, block in blocks(ROOT / name) if language == "python"]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese
    assert english


def test_every_test_that_is_named_is_there() -> None:
    named = {test: page.name for page in PAGES for test in TEST.findall(page.read_text(encoding="utf-8"))}
    assert {test: page for test, page in named.items() if not (ROOT / test).is_file()} == {}


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in a link: lower case, without punctuation, a hyphen for each blank."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    links = [(page, *found) for page in PAGES for found in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [f"{page.name}: {link}#{anchor}" for page, link, anchor in links if not leads(page, link, anchor)] == []


def leads(page: Path, link: str, anchor: str) -> bool:
    """Whether there is what a link on a page points to."""
    place = page.parent / link if link else page
    return place.exists() and (not anchor or anchor in anchors(place))


def test_the_pictures_stay_small() -> None:
    assert sum(picture.stat().st_size for picture in (ROOT / "docs" / "images").iterdir()) < 600_000
