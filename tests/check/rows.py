"""Rows with everything that can be wrong with them."""

import json
from collections.abc import Iterable
from pathlib import Path

SOUND = [{"content": f"类型#上衣*编号#{number}", "summary": f"这件上衣很宽松，编号是{number}。"} for number in range(10)]


def write(file: Path, rows: Iterable[object], *, encoding: str = "utf-8") -> str:
    """Write JSON lines, texts as they are; returns the name of the file."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return str(file)


def row(content: object, summary: object) -> dict[str, object]:
    """A row of a question and its answer."""
    return {"content": content, "summary": summary}


def lines(file: Path) -> list[dict[str, object]]:
    """The rows of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
