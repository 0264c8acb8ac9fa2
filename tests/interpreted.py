"""Triton's interpreter, which runs kernels on the CPU as they are written."""

import builtins
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class _AnyInteger(type):
    """Makes isinstance(x, int) and int(x) of the interpreter work with what NumPy 2.4 gives: arrays of one number are no integers."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, builtins.int)

    def __call__(cls, value: Any = 0) -> int:
        return builtins.int(value.item() if hasattr(value, "item") else value)


class _Integer(metaclass=_AnyInteger):
    pass


def use_interpreter() -> None:
    """Let kernels run on the CPU; skips the test where Triton is missing, or compiles."""
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if not interprets():
        pytest.skip("Triton compiles for the GPU here")
    mend_interpreter()


def interprets() -> bool:
    """Whether Triton is told to run kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def mend_interpreter() -> None:
    """Let the interpreter take the numbers of NumPy 2.4."""
    vars(import_module("triton.runtime.interpreter"))["int"] = _Integer
