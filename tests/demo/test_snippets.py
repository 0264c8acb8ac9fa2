import ast

from imprint.demo.dice import Dice
from imprint.demo.snippets import write_snippet_row


def test_every_function_is_python_and_its_comment_names_what_it_takes() -> None:
    dice = Dice(0)
    for _ in range(300):
        code, comment = write_snippet_row(dice, "train")
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef)
        assert all(argument.arg in comment for argument in function.args.args), (code, comment)


def test_two_arguments_have_two_names() -> None:
    dice = Dice(1)
    for _ in range(300):
        (function,) = ast.parse(write_snippet_row(dice, "dev")[0]).body
        assert isinstance(function, ast.FunctionDef)
        names = [argument.arg for argument in function.args.args]
        assert len(set(names)) == len(names)
