"""Which rows of its training file a run held out: written when it starts, so that they are known again if the file changes."""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from imprint.data.sample import Sample
from imprint.files.atomic import write_json
from imprint.files.typed_json import read_typed
from imprint.messages import Bilingual
from imprint.templates import Message

DIGEST_CHARACTERS: Final = 16
"""Hexadecimal digits of a row's digest."""
ADVICE: Final = Bilingual(
    "Give rows with --data, or delete the file: the held-out rows are drawn again then.",
    "请用 --data 给出问答数据，或删除该文件（将重新抽取留出的行）。",
)


@dataclass(frozen=True)
class HeldOutRecord:
    """The rows that a run held out, by their content."""

    rows: int
    """Rows of the training file when the run was started, held-out ones included."""
    digests: str
    """The digests of the held-out rows in the order of the file, with spaces between them."""

    @classmethod
    def of(cls, rows: int, held_out: Sequence[Sample]) -> "HeldOutRecord":
        """The record of a file of `rows` rows, and of the samples of those held out."""
        return cls(rows, " ".join(map(row_digest, rows_of(held_out))))

    def write(self, file: Path) -> None:
        """Write the record into a run folder."""
        write_json(file, asdict(self))

    @classmethod
    def read(cls, file: Path) -> "HeldOutRecord | None":
        """The record of a run; None if it has none, because an earlier version wrote it. Raises UserError for a damaged file."""
        return read_typed(file, cls, ADVICE) if file.is_file() else None

    @property
    def count(self) -> int:
        """Number of held-out rows."""
        return len(self.digests.split())

    def matches(self, rows: Sequence[Sequence[Sample]]) -> bool:
        """Whether these are the held-out rows, in their order."""
        return list(map(row_digest, rows)) == self.digests.split()

    def missing(self, rows: Sequence[Sequence[Sample]]) -> int:
        """Number of held-out rows that are not among `rows`, not even once."""
        found = set(map(row_digest, rows))
        return sum(digest not in found for digest in self.digests.split())

    def indices(self, rows: Sequence[Sequence[Sample]]) -> list[int]:
        """The indices of the held-out rows in `rows`, in the order of the record; rows that are not there any more are left out."""
        found: defaultdict[str, deque[int]] = defaultdict(deque)
        for index, row in enumerate(rows):
            found[row_digest(row)].append(index)
        return [found[digest].popleft() for digest in self.digests.split() if found[digest]]


def rows_of(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples grouped by row: those of a conversation are consecutive, each with a longer history."""
    rows: list[list[Sample]] = []
    for sample in samples:
        before = rows[-1][-1] if rows else None
        if before is None or before.location != sample.location or len(before.history or ()) >= len(sample.history or ()):
            rows.append([])
        rows[-1].append(sample)
    return rows


def row_digest(row: Sequence[Sample]) -> str:
    """The digest of a row's texts: all its questions and answers, and what comes before the last one."""
    answers = [[sample.query, sample.answer, sample.tool, *_texts(sample.further_messages)] for sample in row]
    content = json.dumps([answers, _texts(row[-1].messages)])
    return hashlib.sha256(content.encode()).hexdigest()[:DIGEST_CHARACTERS]


def _texts(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, message.text, message.tool] for message in messages]
