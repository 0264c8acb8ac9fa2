"""Compiles kernels for cards that are not there, in a process of its own: tests run the same kernels in Triton's interpreter."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from imprint.kernels.language import triton


def compile_for(
    card: int, function: Any, types: Mapping[str, str], constants: Mapping[str, Any], aligned: Iterable[str] = (), **options: int
) -> Any:
    """A kernel compiled for a card of this compute capability; a parameter without a type is an i32.

    `aligned`: parameters that are multiples of 16, as addresses are.
    """
    names = function.arg_names
    source = triton.compiler.ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", card, 32), options=options)


def numbers_of(script: str, *arguments: int) -> list[int]:
    """What a script prints, which compiles kernels. Raises AssertionError with what it says where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [*map(int, done.stdout.split())]
