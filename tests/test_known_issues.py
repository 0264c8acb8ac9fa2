"""The table of known problems in docs/when-a-run-goes-wrong.md: every row is there, and every test that it names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "when-a-run-goes-wrong.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PROBLEMS = (
    "The base's abilities are gone",
    "Loss 0, NaN or exploding",
    "Is this loss normal?",
    "Quantized layers do not start",
    "An old prefix does not load",
    "What to do with the result",
    "Out of memory",
    "The cut takes the wrong end",
    "An evaluation takes hours",
    "An empty answer ends the scoring",
    "Answers repeat or never end",
    "Special tokens moved",
    "Scores cannot be compared",
    "Several GPUs, one is used",
    "DeepSpeed saves fp32, or fills the disk, or saves nothing",
    "Rows vanish",
)


def rows() -> dict[str, list[tuple[str, str]]]:
    """For each problem the (file, test) pairs that its row names."""
    table = PAGE.read_text(encoding="utf-8").partition("| problem |")[2].partition("\n\n")[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return {line.split("|")[1].strip(): NAMED.findall(line) for line in lines}


def names_in(file: Path) -> set[str]:
    """The names of all tests in a file, of its classes too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_known_problem_has_its_row() -> None:
    assert tuple(rows()) == PROBLEMS


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_test_that_a_row_names_is_there(problem: str) -> None:
    named = rows()[problem]
    assert named
    assert [f"{file}::{test}" for file, test in named if not (ROOT / file).is_file() or test not in names_in(ROOT / file)] == []
