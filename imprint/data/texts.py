"""Raw text as the data of a run: documents of any number, tokenized once into the run folder, read from there row by row."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from imprint.data.dataset import DataSplits, TruncationReport
from imprint.data.document_rows import document_tokens
from imprint.data.readers.bad_rows import BadRowError, BadRows
from imprint.data.readers.documents import describe_file_count, list_text_files, read_document_parts
from imprint.data.sample import Sample
from imprint.data.section import TextsSection
from imprint.data.token_file import RowLocations, TokenFileRows, TokenWriter
from imprint.errors import UserError
from imprint.files import atomic_folder, write_json
from imprint.messages import Bilingual
from imprint.progress import Progress
from imprint.tokenizers import Tokenizer

KEY_FILE: Final = "key.json"
VOCABULARY_PROBE: Final = "The quick brown fox 0123，敏捷的棕色狐狸。"
"""A text by whose ids a vocabulary is recognised."""
MAX_PROMPTS: Final = 8
"""How many openings of held-out documents can be watched."""
PROMPT_CHARACTERS: Final = 16
"""Characters of an opening."""
TRAIN, DEV = "train", "dev"
PROGRESS_BYTES: Final = 1000


@dataclass(frozen=True)
class HeldOutDocuments:
    """Which documents are held out: one of every so many, by chance; the first of them is among the first two."""

    every: int
    """So many documents have one that is held out; 0 holds out none."""
    seed: int
    """What the choice follows from."""

    def __contains__(self, document: object) -> bool:
        assert isinstance(document, int), "documents are counted from 0"
        if not self.every:
            return False
        block, location = divmod(document, self.every)
        drawn = int.from_bytes(sha256(f"{self.seed}/{block}".encode()).digest()[:8], "big")
        return location == drawn % (self.every if block else 2)


def load_texts(section: TextsSection, tokenizer: Tokenizer, folder: Path) -> DataSplits:
    """The rows of raw texts: tokenized into `folder`, or read from there where the same files were tokenized the same way before.

    Memory holds one passage of a document and an index of 32 bytes a row. Raises UserError for files that cannot be read, for bad rows, and
    where no document is left to learn from or to hold out.
    """
    key = _key(section, tokenizer)
    if not _is_written(folder, key):
        with atomic_folder(folder) as part:
            _write_all(section, tokenizer, part)
            write_json(part / KEY_FILE, key)
    train, dev = TokenFileRows(folder / TRAIN, section.train_rows), TokenFileRows(folder / DEV, section.dev_rows)
    _refuse_too_few(section, train, dev)
    sources = (_describe(section.train, train), *([_describe(section.dev or section.train, dev) + " (held out)"] if len(dev) else []))
    return DataSplits(train, dev, _prompt_samples(dev, tokenizer), TruncationReport(len(train), 0, 0, 0, 0), RowLocations(train), sources)


def _refuse_too_few(section: TextsSection, train: TokenFileRows, dev: TokenFileRows) -> None:
    if not len(train) and not len(dev):
        raise UserError(f"{section.train} holds no text to learn from. Give files with text.")
    if not len(train) or (not len(dev) and section.dev is None and section.dev_share):
        raise UserError(
            f"{section.train} is one document, so none can be held out to measure on. Name a file in data.dev, set data.dev_share=0, or "
            "let blank lines part the documents of a plain text (data.blank_lines=true)."
        )
    if not len(dev) and section.dev is not None:
        raise UserError(f"{section.dev} holds no text to measure on. Give files with text, or leave data.dev out.")


def _key(section: TextsSection, tokenizer: Tokenizer) -> dict[str, object]:
    """What the rows follow from: the knobs, the vocabulary and the files."""
    files = [file for source in (section.train, section.dev) if source is not None for file in list_text_files(source)]
    try:
        seen = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}. Check data.train and data.dev.") from error
    knobs = section.model_dump(mode="json", exclude={"train", "dev", "train_rows", "dev_rows"})
    return {
        "files": seen,
        "knobs": knobs,
        "vocabulary": [len(tokenizer), *tokenizer.encode(VOCABULARY_PROBE)],
        "held_out": section.dev is None,
    }


def _is_written(folder: Path, key: dict[str, object]) -> bool:
    """Whether a folder holds what this key stands for; anything else there is written anew."""
    try:
        return bool(json.loads((folder / KEY_FILE).read_text(encoding="utf-8")) == key)
    except (OSError, ValueError):
        return False


def _write_all(section: TextsSection, tokenizer: Tokenizer, folder: Path) -> None:
    special = document_tokens(tokenizer)
    every = 0 if section.dev is not None or not section.dev_share else round(1 / section.dev_share)
    for name in (TRAIN, DEV):
        (folder / name).mkdir()
    with TokenWriter(folder / TRAIN, special, section.length) as train, TokenWriter(folder / DEV, special, section.length) as dev:
        _write_source(section, section.train, tokenizer, train, dev, HeldOutDocuments(every, section.dev_seed))
        if section.dev is not None:
            _write_source(section, section.dev, tokenizer, dev, dev, HeldOutDocuments(0, 0))


def _write_source(
    section: TextsSection, source: Path, tokenizer: Tokenizer, learned: TokenWriter, measured: TokenWriter, held_out: HeldOutDocuments
) -> None:
    """Tokenize the documents of a source into one writer, those that are held out into the other."""
    problems, number = BadRows(source), -1
    with ReadProgress(source) as reading:
        for location, part in read_document_parts(
            source, column=section.text_column, blank_lines=section.blank_lines, report_bytes=reading.report_bytes
        ):
            if isinstance(part, BadRowError):
                problems.add(location, part)
                continue
            problems.good += part.first
            number += part.first
            writer = measured if number in held_out else learned
            writer.add(tokenizer.encode(part.text), location, len(part.text), first=part.first, last=part.last)
    problems.raise_if_any(Bilingual("Fix {}; nothing was learned.", "请修正这些数据；没有开始学习。"))


class ReadProgress(Progress):
    """A progress bar over the bytes of a source."""

    def __init__(self, source: Path) -> None:
        super().__init__(f"reading {source}", sum(file.stat().st_size for file in list_text_files(source)) // PROGRESS_BYTES, "kB")
        self._rest = 0

    def report_bytes(self, size: int) -> None:
        """Count bytes."""
        units, self._rest = divmod(self._rest + size, PROGRESS_BYTES)
        self.advance(units)


def _describe(source: Path, rows: TokenFileRows) -> str:
    """What was read, for a person."""
    about = rows.info
    read = f"{about.documents} documents, {about.characters} characters, {about.tokens} tokens in {about.rows} rows"
    used = f", of which {len(rows)} are used" if len(rows) < about.rows else ""
    return f"{source}: {describe_file_count(source)}: {read}{used}"


def _prompt_samples(rows: TokenFileRows, tokenizer: Tokenizer) -> list[Sample]:
    """The beginnings of the first rows held out, for watching how they are gone on with."""
    texts = [tokenizer.decode(rows[row].sequences[0][0]) for row in range(min(MAX_PROMPTS, len(rows)))]
    part = [(text, row) for row, text in enumerate(texts) if text.strip()]
    return [Sample(text[:PROMPT_CHARACTERS], text[PROMPT_CHARACTERS:], None, rows.location(row)) for text, row in part]
