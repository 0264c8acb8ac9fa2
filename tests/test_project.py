import ast
import functools
import gc
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import imprint
from imprint.config import Section

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "imprint").rglob("*.py"))
SOURCE_FILES = set(SOURCES)
TOOLS = sorted((ROOT / "tools").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for folder in ("imprint", "tests", "docs", "recipes", "scripts", "benchmarks", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md", ".yaml", ".toml", ".sh", ".js", ".css", ".html", ""} and path.is_file()
] + [path for path in ROOT.iterdir() if path.suffix in {".md", ".toml", ".yaml", ".txt"}]

WITHOUT_TESTS = {"imprint/__main__.py"}  # run by every other test
TESTS_OF_NO_MODULE = {
    "tests/test_benchmarks.py",
    "tests/test_gguf_kinds.py",
    "tests/test_kinds.py",
    "tests/test_matrix.py",
    "tests/test_old_runs.py",
    "tests/test_hostile.py",
    "tests/test_hostile_data.py",
    "tests/test_hostile_folders.py",
    "tests/test_known_issues.py",
    "tests/test_project.py",
    "tests/test_readme.py",
    "tests/test_real.py",
    "tests/test_recipes.py",
    "tests/test_scripts.py",
    "tests/test_sources.py",
    "tests/test_tasks.py",
}
HEAVY = {"torch", "sklearn", "matplotlib"}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "constants"}
# Brackets keep the patterns from finding themselves.
LEFT_BEHIND = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)\b|(?<![\w.])/(w[o]rk|r[o]ot|h[o]me|t[m]p)/")
DOORS = {
    "deepspeed": {"engine"},
    "peft": {"tune"},
    "transformers": {"models", "tokenizers"},
    "sentencepiece": {"tokenizers"},
    "tiktoken": {"tokenizers"},
    "tokenizers": {"tokenizers", "demo"},
    "jinja2": {"tokenizers"},
    "jieba": {"metrics"},
    "rouge_chinese": {"metrics"},
    "sacrebleu": {"metrics"},
    "sklearn": {"metrics"},
    "matplotlib": {"report"},
    "rich": {"progress"},
    "yaml": {"config"},
    "psutil": {"runtime"},
    "prompt_toolkit": {"chat"},
    "openpyxl": {"data"},
    "pyarrow": {"data"},
    "filelock": {"runs"},
    "huggingface_hub": {"loading"},
    "alembic": {"serve"},
    "argon2": {"serve"},
    "fastapi": {"serve"},
    "httpx2": {"chat", "serve"},
    "prometheus_client": {"serve"},
    "sqlalchemy": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a file's tree."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module", autouse=True)
def _no_collections_and_no_trees_left() -> Iterator[None]:
    """Each garbage collection would go through a million nodes: here, and in all tests behind these, were they kept."""
    gc.disable()
    yield
    nodes.cache_clear()
    gc.enable()


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def all_sections() -> list[type[Section]]:
    for module in pkgutil.walk_packages(imprint.__path__, "imprint."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, queue = [], [Section]
    while queue:
        children = [child for child in queue.pop().__subclasses__() if child.__module__.startswith("imprint.")]
        found += children
        queue += children
    return found


def test_files_and_functions_stay_small() -> None:
    files = [name(path) for path in (*SOURCES, *TESTS) if lines(path) >= 500]
    long = [
        f"{name(path)}: {node.name}"
        for path in (*SOURCES, *TESTS)
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert (files, long) == ([], [])


def test_the_median_file_stays_under_200_lines() -> None:
    lengths = sorted(map(lines, SOURCES))
    assert lengths[len(lengths) // 2] < 200


def test_one_file_of_at_most_250_lines_tells_a_run_from_its_first_line_to_its_last() -> None:
    assert lines(ROOT / "imprint" / "training" / "run.py") <= 250


def test_no_function_of_ours_takes_arbitrary_keywords() -> None:
    found = {f"{name(path)}: {node.name}" for path in SOURCES for node in functions(path) if node.args.kwarg}
    sandbox = {f"imprint/tokenizers/sandbox.py: {function}" for function in ("bounded", "call")}  # which Jinja calls for a template
    # transformers hands over whatever a class of its has, and Triton whatever a version of it tells
    assert found - sandbox == {"imprint/models/hf.py: attention_function", "imprint/kernels/compilations.py: __call__"}


def test_names_say_what_is_inside() -> None:
    assert [name(path) for path in SOURCES if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES] == []


def test_nothing_is_left_behind() -> None:
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if LEFT_BEHIND.search(line)
    ]
    assert found == []


def test_every_module_has_its_tests_beside_its_name() -> None:
    modules = [path for path in (*SOURCES, *TOOLS) if path.name != "__init__.py" and name(path) not in WITHOUT_TESTS]
    wanted = {f"tests/{name(path.with_name(f'test_{path.name}')).removeprefix('imprint/')}": name(path) for path in modules}
    there = {name(path) for path in TESTS if path.name.startswith("test_") and path.parent.name != "browser"}
    assert {module for test, module in wanted.items() if test not in there} == set()
    assert there - set(wanted) - TESTS_OF_NO_MODULE == set()


def test_every_test_asserts_something() -> None:
    def asserts(node: ast.AST) -> bool:
        return any(
            isinstance(part, ast.Assert) or (isinstance(part, ast.Attribute) and part.attr in {"raises", "warns"})
            for part in ast.walk(node)
        )

    assert [
        f"{name(path)}: {node.name}" for path in TESTS for node in functions(path) if node.name.startswith("test_") and not asserts(node)
    ] == []


@functools.cache
def own_imports(path: Path) -> set[str]:
    """The files of the package that a file imports, wherever in it: modules, and packages by their __init__.py."""
    found = set()
    for node in nodes(path):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for module in names:
            file = ROOT.joinpath(*module.split("."))
            found |= {name(one) for one in (file.with_suffix(".py"), file / "__init__.py") if one in SOURCE_FILES}
    return found - {name(path)}


def test_rooms_are_tied_by_few_imports() -> None:
    def room(path: str) -> str:
        return path.split("/")[1]

    arrows = {(room(name(path)), room(file)) for path in SOURCES for file in own_imports(path)}
    between = {(above, below) for above, below in arrows if above != below and below != "__init__.py"}
    of_the_service = {arrow for arrow in between if "serve" in arrow}

    assert len(between - of_the_service) <= 230
    assert len(of_the_service) <= 12


def test_no_files_import_each_other_in_a_circle() -> None:
    waiting = {name(path): {file for file in own_imports(path) if not file.endswith("__init__.py")} for path in SOURCES}
    while ready := [file for file, needed in waiting.items() if not needed & waiting.keys()]:
        for file in ready:
            del waiting[file]

    assert waiting == {}


def test_a_heavy_library_has_one_door() -> None:
    found: dict[str, set[str]] = {library: set() for library in DOORS}
    for path in SOURCES:
        for library in imported(path) & DOORS.keys():
            found[library].add(path.relative_to(ROOT / "imprint").parts[0].removesuffix(".py"))
    assert {library: rooms - DOORS[library] for library, rooms in found.items() if rooms - DOORS[library]} == {}


def test_every_user_error_has_both_languages() -> None:
    """A `UserError` takes a `Bilingual`, and so does the ValueError of a section's validator."""
    in_one_language = [
        f"{name(path)}:{node.lineno}"
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id == "UserError" or (node.func.id == "ValueError" and path.name in {"section.py", "task.py"})
        if any(isinstance(argument, ast.Constant | ast.JoinedStr | ast.BinOp) for argument in node.args)
    ]
    assert in_one_language == []


PLACE = re.compile(r"(?:--?[a-z_]+[: ] ?|/[a-z]+: |[a-z_.]+: )?(?:\\{[^{}]*\\})?")
"""How an error begins: a flag, a command of the chat or a knob, and the path or the field that it is about."""
NO_PLACES = {
    "problem.at(location).english": "its Chinese half is problem.at(location).chinese, which has the place",
    "CONNECTION_LOST": "words, not a place",
    "sizes": "words, not a place",
    "english": "words, not a place",
}
"""Values at the beginning of an error that need not stand in its Chinese half -> why."""


def test_the_chinese_half_of_an_error_names_the_same_place() -> None:
    """Each half is a line of its own on the screen, and a page shows only one of them."""
    without = []
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                halves = [
                    [as_template(half) for half in said.args] for said in node.args if isinstance(said, ast.Call) and len(said.args) == 2
                ]
                without += [
                    f"{name(path)}:{node.lineno}: {place}" for english, chinese in halves if (place := missing_place(english, chinese))
                ]
    assert without == []


def as_template(text: ast.expr) -> str:
    """The source of a text with its values in braces, without their formats."""
    if isinstance(text, ast.Constant):
        return str(text.value)
    if isinstance(text, ast.JoinedStr):
        return "".join(
            "{" + ast.unparse(part.value) + "}" if isinstance(part, ast.FormattedValue) else as_template(part) for part in text.values
        )
    return as_template(text.left) + as_template(text.right) if isinstance(text, ast.BinOp) else "{" + ast.unparse(text) + "}"


def missing_place(english: str, chinese: str) -> str | None:
    """The flag, knob, path or field with which the English half begins, if the Chinese one lacks it."""
    begins = PLACE.match(english)
    place = begins[0] if begins else ""
    word, _, value = place.partition("{")
    value = value.rstrip("}")
    lacking = [part for part in (word.rstrip(": "), value) if part and part not in NO_PLACES and part not in chinese]
    return ", ".join(lacking) or None


def test_no_section_loads_a_heavy_library() -> None:
    """A recipe can be checked before any of them is loaded."""
    modules = sorted({section.__module__ for section in all_sections()})
    program = f"import sys, {', '.join(modules)}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.split()
    assert loaded == []


def test_every_knob_is_documented() -> None:
    undocumented = [
        f"{section.__name__}.{knob}" for section in all_sections() for knob, field in section.model_fields.items() if not field.description
    ]
    assert undocumented == []


def test_the_page_of_knobs_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "recipe.md"
    if not page.exists():
        pytest.skip("docs/recipe.md is not made yet: make docs")
    from imprint.cli import main

    assert main(["recipe", "--markdown"]) == 0
    assert capsys.readouterr().out == page.read_text(encoding="utf-8")


def test_the_page_of_the_architecture_shows_the_rooms_in_their_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = page.partition("## Rooms")[2].partition("\n## ")[0]
    shown = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`.*?) \|", rooms, re.MULTILINE)]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert shown == [set(re.findall(r"\w+", layer)) for layer in layers]


def test_the_page_of_the_architecture_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|md|toml))`", page))
    new = {"serve/section.py", "models/NAME.py", "models/configs/NAME.py", "command.py", "section.py"}  # of rooms and families to come
    assert [file for file in sorted(named - new) if not ((ROOT / "imprint" / file).exists() or (ROOT / file).exists())] == []


def test_the_version_is_said_once_and_told_in_the_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "imprint/__init__.py"
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == imprint.__version__


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [entry for entries in (project["dependencies"], *project["optional-dependencies"].values()) for entry in entries]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line}
    names = {re.split(r"[<>=\[]", entry)[0].lower().replace("_", "-") for entry in wanted} - {"imprint"}
    assert names <= pinned


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    bounds = dict(entry.split(">=") for entry in wanted)
    oldest = dict(line.split("==") for line in (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines() if "==" in line)
    assert {library: oldest[library].removesuffix(".0") for library in ("huggingface-hub", "peft", "transformers")} == {
        library: bounds[library] for library in ("huggingface-hub", "peft", "transformers")
    }


def test_what_asks_transformers_or_peft_is_tested_with_the_oldest() -> None:
    asking = [path for path in (*SOURCES, *TESTS) if imported(path) & {"transformers", "tokenizers", "peft", "huggingface_hub"}]
    tests = [
        path if path in TESTS else ROOT / "tests" / path.relative_to(ROOT / "imprint").with_name(f"test_{path.name}") for path in asking
    ]
    listed = re.search(r"^OLDEST_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed is not None
    assert tests
    run = tuple(listed[1].split())
    assert [name(path) for path in tests if path.name.startswith("test_") and not name(path).startswith(run)] == []


def test_what_needs_triton_is_tested_where_it_is_installed() -> None:
    needing = [name(path) for path in TESTS if "needs_triton" in (text := path.read_text(encoding="utf-8")) or "use_interpreter" in text]
    listed = re.search(r"^KERNEL_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed is not None
    run = (*listed[1].split(), "tests/interpreted.py", "tests/test_project.py")
    assert len(needing) > len(run)
    assert [path for path in needing if not path.startswith(run)] == []


def test_both_readmes_give_the_same_commands() -> None:
    readmes = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
    if not all(path.exists() for path in readmes):
        pytest.skip("the READMEs are not both written yet")
    english, chinese = (re.findall(r"^```bash\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE) for path in readmes)
    commands = [[re.sub(r"\s*#.*", "", line) for block in blocks for line in block.splitlines()] for blocks in (english, chinese)]
    assert commands[0] == commands[1]
    assert commands[0]
