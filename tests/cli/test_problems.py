import argparse
import re

import pytest

from imprint.cli.problems import UNKNOWN, parser_problem, unknown_words


def test_a_message_that_is_not_known_is_still_told_in_chinese() -> None:
    assert parser_problem("something new", "imprint x").chinese == f"{UNKNOWN}用 `imprint x --help` 查看用法。"


def test_what_argparse_of_this_python_says_is_known() -> None:
    """A change of argparse's words would leave only the general sentence."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--one", type=int)
    parser.add_argument("--two", nargs=2)
    parser.add_argument("--many", nargs="+")
    parser.add_argument("--flag", action="store_true")
    for words in (["--one"], ["--two", "x"], ["--many"], ["--flag=3"], ["--one", "x"]):
        with pytest.raises(argparse.ArgumentError) as error:
            parser.parse_args(words)
        problem = parser_problem(str(error.value), "imprint")
        assert UNKNOWN not in problem.chinese
        assert re.search("--(one|two|many|flag)", problem.chinese)


def test_knobs_are_named_only_where_a_command_takes_them() -> None:
    assert "train.sh" in unknown_words(["--lr", "1"], "imprint train", ["--limit"], takes_knobs=True).chinese
    assert "train.sh" not in unknown_words(["--lr", "1"], "imprint train", ["--limit"], takes_knobs=False).english
