import ast

from imprint.demo.rng import Rng
from imprint.demo.snippets import write_snippet_row


def test_every_function_is_python_and_its_comment_names_what_it_takes() -> None:
    rng = Rng(0)
    for _ in range(300):
        code, comment = write_snippet_row(rng, "train")
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef)
        assert all(argument.arg in comment for argument in function.args.args), (code, comment)


def test_two_arguments_have_two_names() -> None:
    rng = Rng(1)
    for _ in range(300):
        (function,) = ast.parse(write_snippet_row(rng, "dev")[0]).body
        assert isinstance(function, ast.FunctionDef)
        names = [argument.arg for argument in function.args.args]
        assert len(set(names)) == len(names)
