"""DeepSpeed's own checks of its configuration, told as sentences with file and field."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imprint.files.reading import read_json
from imprint.messages import Bilingual, UserError

COMPILED = ("JIT load", "MissingCUDA", "CUDA_HOME", "op builder", "compile")
"""Parts of RuntimeErrors about operators that DeepSpeed would have to compile; other RuntimeErrors are no matter of the file."""
MAX_REASON = 200
"""Characters of DeepSpeed's own message that are shown."""


@contextmanager
def translate_config_errors(file: Path | None) -> Iterator[None]:
    """Turn what DeepSpeed raises about the settings of a file into a UserError; without a file they are ours, and so is the error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        foreign = not isinstance(error, RuntimeError) or any(part in str(error) for part in COMPILED)
        if file is None or not foreign:
            raise
        content = read_json(file, "utf-8-sig")
        path, reason = _path_and_reason(content, error)
        field = f'"{path}": ' if path else ""
        raise UserError(
            Bilingual(
                f"{file}: {field}DeepSpeed does not accept it ({reason}). Take it out of the file, or correct it; engine.deepspeed=zero2 "
                "and zero3 need no file.",
                f"{file}：{field}DeepSpeed 不接受（{reason}）：请从文件中去掉或改正；engine.deepspeed=zero2、zero3 不需要文件。",
            )
        ) from error


def _path_and_reason(content: Mapping[str, Any], error: Exception) -> tuple[str, str]:
    """The path of the field that an error is about, empty if it names none, and the reason."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        names = [str(part) for part in first["loc"]]
        reason = f"{first['msg']}" + ("" if first["type"] == "extra_forbidden" else f", got {str(first['input'])[:60]!r}")
    else:
        names, reason = [], " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
    paths = list(_paths(content))
    exact = [path for path in paths for end in range(len(names), 0, -1) if path[-end:] == names[:end]]
    if exact:
        longest = max(exact, key=len)
        return ".".join(longest), reason
    named = [path for path in paths if path[-1] in reason]
    path = max(named, key=lambda path: len(path[-1])) if named else names
    return ".".join(path), reason


def _paths(content: Mapping[str, Any]) -> Iterator[list[str]]:
    """The path of every field, those of sections included."""
    for name, value in content.items():
        yield [name]
        if isinstance(value, dict):
            yield from ([name, *path] for path in _paths(value))
