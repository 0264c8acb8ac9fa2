"""Which rows a run learned from: written when it starts, so that rows added to its file later do not count as learned."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Final

from imprint.data.sample import Sample
from imprint.files.atomic import atomic_file
from imprint.files.reading import MAX_LINES_BYTES, read_bounded
from imprint.messages import UserError

DIGEST_BYTES: Final = 4
"""Bytes of the digest of a sample: with a million learned rows, one of 4,000 rows that were added is taken for one of them."""
SEPARATOR: Final = "\0"


@dataclass(frozen=True)
class LearnedRows:
    """The samples that a run learned from, by their content."""

    digests: bytes = field(repr=False)
    """A digest of DIGEST_BYTES for each training sample in the order of the file."""

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "LearnedRows":
        """The record of these training samples."""
        return cls(b"".join(map(_digest, samples)))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.digests) // DIGEST_BYTES

    def write(self, file: Path) -> None:
        """Write the record into a run folder."""
        with atomic_file(file) as temporary:
            temporary.write_bytes(self.digests + _checksum(self.digests))

    @classmethod
    def read(cls, file: Path) -> "LearnedRows | None":
        """The record of a run; None where none can be read: in a run of an earlier version, in a bundle, or where it is damaged."""
        try:
            content = read_bounded(file, MAX_LINES_BYTES) if file.is_file() else b""
        except (OSError, UserError):
            return None
        digests, checksum = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        return cls(digests) if content and checksum == _checksum(digests) else None

    def select(self, samples: Iterable[Sample]) -> list[Sample]:
        """Those of `samples` that the run learned from; one that is there more often than it was learned counts as often as it was.

        Of different samples with one digest, each is taken, since each may be the one that was learned.
        """
        learned, taken, selected = self._counts(), Counter[int](), list[Sample]()
        for sample in samples:
            if count := learned.get(_digest(sample)):
                content = hash(_content(sample))
                taken[content] += 1
                if taken[content] <= count:
                    selected.append(sample)
        return selected

    def exactly(self, samples: Iterable[Sample | None]) -> list[Sample] | None:
        """The samples, if they are those that the run learned from in their order; else None.

        A None is no sample that was learned. At most one more than were learned is read.
        """
        found = list[Sample]()
        for sample, digest in zip_longest(samples, self._all()):
            if sample is None or _digest(sample) != digest:
                return None
            found.append(sample)
        return found

    def missing(self, samples: Iterable[Sample]) -> int:
        """Number of samples that the run learned from and that are not among these, not even once."""
        found = set(map(_digest, samples))
        return sum(digest not in found for digest in self._all())

    def count(self, samples: Iterable[Sample]) -> int:
        """Number of those of `samples` that the run learned from, wherever they are from."""
        learned = set(self._all())
        return sum(_digest(sample) in learned for sample in samples)

    def _counts(self) -> Counter[bytes]:
        return Counter(self._all())

    def _all(self) -> Iterator[bytes]:
        return (self.digests[start : start + DIGEST_BYTES] for start in range(0, len(self.digests), DIGEST_BYTES))


def _digest(sample: Sample) -> bytes:
    """CRC-32 of a sample's content."""
    return _checksum(_content(sample))


def _content(sample: Sample) -> bytes:
    """A sample's texts: question, answer and the turn before them, since all turns of each sample would take quadratic time."""
    further = (text for message in sample.further_messages for text in (message.tool, message.text))
    texts = (sample.query, sample.answer, sample.tool, sample.system or "", *(sample.history[-1] if sample.history else ()), *further)
    return SEPARATOR.join(texts).encode("utf-8", "surrogatepass")


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(DIGEST_BYTES, "little")
