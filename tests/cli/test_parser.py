import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from imprint.cli import build_parser, main
from imprint.cli.parser import _Parser, find_section
from imprint.config import describe

HEAVY = {"torch", "transformers", "matplotlib", "jieba", "pydantic", "numpy", "yaml", "rich", "sentencepiece"}
SURFACE = {
    "": {"--help", "--version"},
    "init": {"--help", "NAME", "FOLDER"},
    "train": {"--help", "RECIPE.yaml", "a.b=c"},
    "fit": {"--help", "RECIPE.yaml", "--card", "--probe", "--output", "a.b=c"},
    "evaluate": {"--help", "RUN|MODEL", "--data", "--limit", "a.b=c"},
    "compare": {"--help", "RUN", "--data", "--prompts", "--limit", "a.b=c"},
    "chat": {"--help", "RUN|MODEL|URL", "a.b=c"},
    "serve": {"--help", "RUN|MODEL|BUNDLE", "a.b=c"},
    "perplexity": {"--help", "RUN|MODEL", "--data", "--limit", "a.b=c"},
    "score": {"--help", "PREDICTIONS", "--protocol", "--output"},
    "data": {"--help"},
    "data check": {"--help", "FILE", "--dev", "--fix", "--model", "a.b=c"},
    "data show": {"--help", "FILE", "--limit", "--model", "a.b=c"},
    "data convert": {"--help", "FILE", "OUT", "a.b=c"},
    "doctor": {"--help"},
    "import": {"--help", "FILE.gguf", "OUT"},
    "quantize": {"--help", "MODEL", "OUT", "--format", "--bits"},
    "export": {"--help", "RUN", "OUT", "--to", "--prompts", "a.b=c"},
    "main": {"--help", "--flag value"},
    "migrate": {"--help", "train.sh", "RECIPE.yaml"},
    "forgetting": {"--help", "RUN", "a.b=c"},
    "report": {"--help", "RUN"},
    "runs": {"--help", "--json", "FOLDER"},
    "recipe": {"--help", "--evaluate", "--markdown"},
    "demo": {"--help"},
    "demo rows": {"--help", "--task", "OUT"},
    "demo identity": {"--help", "OUT"},
    "demo kiln": {"--help", "OUT"},
    "demo bloom": {"--help", "OUT", "a.b=c"},
    "user": {"--help"},
    **{f"user {part}": {"--help", "NAME", "a.b=c"} for part in ("add", "change", "disable", "enable", "delete", "reset-password", "key")},
    **{f"user {part}": {"--help", "--json", "a.b=c"} for part in ("list", "requests", "audit")},
    "user keys": {"--help", "--json", "NAME", "a.b=c"},
    "user revoke": {"--help", "KEY", "a.b=c"},
    **{f"user {part}": {"--help", "ID", "a.b=c"} for part in ("approve", "decline")},
    "user guests": {"--help", "WHERE", "a.b=c"},
    **{f"user {part}": {"--help", "FILE", "a.b=c"} for part in ("backup", "restore")},
}


def surface(parser: argparse.ArgumentParser, name: str = "") -> dict[str, set[str]]:
    """What can be typed: for each command its options and the names of its arguments."""
    found: dict[str, set[str]] = {name: set()}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child, child_parser in action.choices.items():
                found |= surface(child_parser, f"{name} {child}".strip())
        else:
            found[name].add(action.option_strings[-1] if action.option_strings else str(action.metavar))
    return found


def test_the_surface_does_not_grow_by_accident() -> None:
    assert surface(build_parser()) == SURFACE


def test_every_help_line_is_in_both_languages() -> None:
    help_lines = [line for line in build_parser().format_help().splitlines() if " / " in line]
    assert (
        len(help_lines) == 1 + sum(bool(name) and " " not in name for name in SURFACE) + 11
    )  # usage, three titles, two options, first steps
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in line) for line in help_lines)


def parsers(parser: argparse.ArgumentParser, name: str = "") -> dict[str, _Parser]:
    """Every command that takes knobs, by its words."""
    assert isinstance(parser, _Parser)
    found = {name: parser} if parser.knobs else {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child, child_parser in action.choices.items():
                found |= parsers(child_parser, f"{name} {child}".strip())
    return found


def test_every_command_that_takes_knobs_lists_them_in_its_help_a_line_each() -> None:
    listing = parsers(build_parser())
    assert listing.keys() == {name for name, words in SURFACE.items() if words & {"a.b=c", "--flag value"}}
    for name, parser in listing.items():
        assert parser.knobs is not None
        lines = parser.format_help().partition("与默认值:\n")[2].splitlines()
        knobs = [knob for knob in describe(find_section(parser.knobs)) if knob.type != "section"]
        assert [line.split()[0] for line in lines] == [parser.knob_prefix + knob.path for knob in knobs], name
        for line, knob in zip(lines, knobs, strict=True):
            assert f" {knob.default} " in line
            assert knob.description in line


@pytest.mark.parametrize("words", [["train"], ["evaluate"], ["chat"], ["serve"], ["data", "check"], ["main"]])
def test_the_help_of_a_command_needs_no_pytorch(words: list[str]) -> None:
    script = (
        f"import sys, time; from imprint.cli import main\ntry: main([*{words!r}, '--help'])\n"
        "finally: print('torch' in sys.modules, time.process_time() < 1, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert result.stderr == "False True\n"
    assert "与默认值:\n" in result.stdout


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    script = (
        "import sys; from imprint.cli import main\ntry: main(['--help'])\n"
        f"finally: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    times = []
    for _attempt in range(3):
        began = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
        times.append(time.perf_counter() - began)
    assert result.stderr == "[]\n"
    assert "commands / 命令" in result.stdout
    assert min(times) < 0.5


@pytest.mark.parametrize("words", [["help"], ["help", "data", "check"]])
def test_help_is_also_a_word(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for given in (words, [*words[1:], "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(given)
        assert stop.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("usage / 用法: imprint")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "usage / 用法: imprint [-h] [--version] COMMAND ..."),
        (["evaluate", "run", "--data", "a", "--limit", "0"], 'error: argument --limit: must be an integer of at least 1, got "0". Run'),
        (
            ["train"],
            "error: the following arguments are required: RECIPE.yaml. Run `imprint train --help` to see what can be given.\n       ",
        ),
        (["trian"], 'error: argument COMMAND: "trian" is unknown; did you mean train? allowed here: init, train,'),
        (["export", "run", "--to", "vllm"], 'error: argument --to: "vllm" is unknown; allowed here: official,'),
        (
            ["train", "recipe.yaml", "--pre_seq_len", "128"],
            "error: unrecognized arguments: --pre_seq_len 128. Knobs are written without dashes, as in tune.length=128; the flags of an",
        ),
        (
            ["evaluate", "run", "--data", "a", "--limt", "3"],
            "error: unrecognized arguments: --limt 3; did you mean --limit? Run `imprint evaluate --help`",
        ),
        (
            ["migrate", "train.sh", "--out", "a.yaml"],
            "error: unrecognized arguments: --out a.yaml; RECIPE.yaml is written without --out: `imprint migrate train.sh RECIPE.yaml`",
        ),
        (
            ["quantize", "base", "-o", "new"],
            "error: unrecognized arguments: -o; OUT is written without -o: `imprint quantize MODEL OUT`. Run",
        ),
        (["report", "run", "more"], "error: unrecognized arguments: more. Run `imprint report --help` to see what can be given.\n       "),
    ],
)
def test_a_command_that_cannot_be_read_is_told(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train"], "缺少参数：RECIPE.yaml。用 `imprint train --help` 查看用法。"),
        (["trian"], 'COMMAND：没有 "trian"，是否想写 train？可用：init, train,'),
        (["export", "run", "--to", "vllm"], '--to：没有 "vllm"，可用：official,'),
        (["evaluate", "run", "--data", "a", "--limit", "0"], '--limit 须为不小于 1 的整数，实际是 "0"。'),
        (["evaluate", "run", "--data"], "--data 后面需要一个值。"),
        (["runs", "--json=3"], "--json 不带值，却写了 '3'。"),
        (["quantize", "a", "b", "--bits", "x"], "--bits 的值 'x' 无效。"),
        (["evaluate", "run", "--data", "a", "--limt", "3"], "不认识的参数：--limt 3，是否想写 --limit？"),
        (["train", "x.yaml", "--lr", "1"], "不认识的参数：--lr 1。选项前不加横线"),
        (["score", "x", "--data", "y"], "不认识的参数：--data y。用 `imprint score --help` 查看用法。"),
    ],
)
def test_the_same_is_told_in_chinese(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    english, chinese = capsys.readouterr().err.splitlines()
    assert english.startswith("error: ")
    assert chinese.startswith(f"       {sentence}")


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from all_parsers(sub)


def test_all_help_is_in_both_languages() -> None:
    """Descriptions, headings, and the line of every argument; the knobs below have their own test."""
    found = list(all_parsers(build_parser()))
    assert len(found) > 20
    for parser in found:
        texts = [parser.description, *(group.title for group in parser._action_groups)]
        texts += [action.help for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
        assert [text for text in texts if text is None or not re.search("[\u4e00-\u9fff]", text)] == [], parser.prog
        assert parser.format_usage().startswith("usage / 用法: imprint")
