"""JSON files of a run, checked against the types that are expected: a file may be damaged, or untrusted.

A dataclass is written as an object with its fields. Nothing is converted: a number where a text is expected is refused, as are fields that
the type has not, numbers that are not finite, and texts that UTF-8 cannot hold.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from imprint.files.atomic import jsonl_values
from imprint.files.reading import MAX_LINES_BYTES, read_bounded, refuse_large, refuse_many_values, require_regular
from imprint.messages import Bilingual, UserError

MAX_BYTES: Final = 2**25
"""Largest file that is read whole; what Imprint writes has a few megabytes at most."""
MAX_LINES: Final = 10_000
"""Most lines of a file of JSON lines; the log has its own reader."""
STRICT: Final = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
T = TypeVar("T")


def read_typed(path: Path, kind: type[T], advice: Bilingual, *, limit: int = MAX_BYTES) -> T:
    """The value in a JSON file of at most `limit` bytes.

    UserError, which ends in `advice`, if it is no `kind`, and for a file that is not there.
    """
    try:
        require_regular(path)
        if path.stat().st_size > limit:
            raise _refusal(str(path), f"is larger than {limit // 2**20} MiB", advice)
        content = read_bounded(path, limit)
        refuse_many_values(content)
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _refusal(str(path), "is not JSON, or has more than a million values", advice) from error
    except OSError as error:
        raise _refusal(str(path), f"cannot be read: {error.strerror}", advice) from error
    return next(_checked([value], kind, str(path), advice))


def read_typed_lines(path: Path, kind: type[T], advice: Bilingual, *, most: int = MAX_LINES, limit: int = MAX_LINES_BYTES) -> list[T]:
    """The values of a file of JSON lines, as `read_jsonl`; UserError, which ends in `advice`, for a line that is no `kind`.

    The same for a file of more than `limit` bytes, and of more than `most` lines, of which no more are read.
    """
    if path.exists():
        refuse_large(path, limit)
    values = list(_checked(islice(jsonl_values(path), most + 1), kind, str(path), advice, numbered=True))
    if len(values) > most:
        raise _refusal(str(path), f"has more than {most:,} lines", advice)
    return values


def typed(value: object, kind: type[T], source: str, advice: Bilingual) -> T:
    """A value of JSON as a `kind`; UserError, which names `source` and ends in `advice`, if it is none."""
    return next(_checked([value], kind, source, advice))


def _checked(values: Iterable[object], kind: type[T], source: str, advice: Bilingual, *, numbered: bool = False) -> Iterator[T]:
    adapter = TypeAdapter(list[kind], config=STRICT)  # type: ignore[valid-type]  # a type of its own takes no config
    for number, value in enumerate(values, start=1):
        try:
            yield adapter.validate_json(json.dumps([value]))[0]
        except (ValidationError, ValueError, RecursionError) as error:
            where = f"{source}:{number}" if numbered else source
            raise _refusal(where, f"is not what Imprint wrote{_problem(error)}", advice) from error


def _problem(error: Exception) -> str:
    """The first problem that pydantic found, in brackets, such as " (rows.0.fate: Input should be ...)"."""
    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part)[:60] for part in first["loc"][1:])
    return f" ({field}: {first['msg'][:200]})" if field else f" ({first['msg'][:200]})"


def _refusal(where: str, problem: str, advice: Bilingual) -> UserError:
    return UserError(Bilingual(f"{where}: {problem}. {advice.english}", f"{where}：不是 Imprint 写出的内容。{advice.chinese}"))
