import ast
from pathlib import Path

import pytest

from imprint import kernels

SOURCES = sorted(Path(kernels.__file__).parent.glob("*.py"))


def unguarded(tree: ast.AST, guarded: bool = False) -> list[ast.Call]:  # noqa: FBT001, FBT002
    """Calls that are in no block `with on_device(...)`."""
    if isinstance(tree, ast.With):
        guarded = guarded or any(ast.unparse(item.context_expr).startswith("on_device(") for item in tree.items)
    here = [tree] if isinstance(tree, ast.Call) and not guarded else []
    return [*here, *(call for child in ast.iter_child_nodes(tree) for call in unguarded(child, guarded))]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_kernel_is_launched_on_the_gpu_of_its_tensors(source: Path) -> None:
    functions = [one for one in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(one, ast.FunctionDef)]
    outside = {one.name: {ast.unparse(call.func) for call in unguarded(one)} for one in functions}
    launching = {name for name, calls in outside.items() if any("_kernel[" in call for call in calls)}
    while more := {name for name, calls in outside.items() if calls & launching} - launching:
        launching |= more

    assert {name for name in launching if not name.startswith("_")} == set()
