"""Raw text as the data of a run: documents are tokenized once into the run folder, and read from there row by row."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from imprint.data.dataset import DataSplits
from imprint.data.document_rows import document_frame
from imprint.data.readers.bad_rows import BadRowError, BadRows
from imprint.data.readers.documents import describe_file_count, list_text_files, read_document_parts
from imprint.data.sample import Sample
from imprint.data.section import TextsSection
from imprint.data.token_file import RowLocations, TokenFileRows, TokenWriter
from imprint.data.truncation import TruncationReport
from imprint.files.atomic import atomic_folder, write_json
from imprint.files.reading import read_json
from imprint.messages import Bilingual, UserError
from imprint.progress import Progress
from imprint.tokenizers import Tokenizer

KEY_FILE: Final = "key.json"
VOCABULARY_PROBE: Final = "The quick brown fox 0123，敏捷的棕色狐狸。"
"""A text whose ids identify a vocabulary."""
MAX_PROMPTS: Final = 8
"""Maximum number of held-out documents whose beginning is a watched prompt."""
PROMPT_CHARACTERS: Final = 16
"""Characters of such a prompt."""
TRAIN, DEV = "train", "dev"
PROGRESS_BYTES: Final = 1000


@dataclass(frozen=True)
class HeldOutDocuments:
    """The indices of held-out documents: a random one of each block; in the first block it is one of the first two."""

    every: int
    """Size of a block in documents; 0 holds out none."""
    seed: int
    """Seed of the choice."""

    def __contains__(self, document: object) -> bool:
        assert isinstance(document, int), "documents are counted from 0"
        if not self.every:
            return False
        block, index = divmod(document, self.every)
        drawn = int.from_bytes(sha256(f"{self.seed}/{block}".encode()).digest()[:8], "big")
        return index == drawn % (self.every if block else 2)


def load_texts(section: TextsSection, tokenizer: Tokenizer, folder: Path) -> DataSplits:
    """The rows of raw texts: tokenized into `folder`, or read from there if the same files were tokenized the same way before.

    Memory holds one part of a document and an index of 32 bytes a row. Raises UserError for files that cannot be read, for bad rows, and
    for too few documents to hold some out.
    """
    key = _key(section, tokenizer)
    if not _is_written(folder, key):
        with atomic_folder(folder) as part:
            _write_all(section, tokenizer, part)
            write_json(part / KEY_FILE, key)
    train, dev = TokenFileRows(folder / TRAIN, section.train_rows), TokenFileRows(folder / DEV, section.dev_rows)
    _refuse_too_few(section, train, dev)
    sources = (
        _describe(section.train, train, section.text_column),
        *([_describe(section.dev or section.train, dev, section.text_column) + " (held out)"] if len(dev) else []),
    )
    reports = TruncationReport(len(train)), TruncationReport(len(dev))
    return DataSplits(train, dev, _prompt_samples(dev, tokenizer), *reports, locations=RowLocations(train), sources=sources)


def _refuse_too_few(section: TextsSection, train: TokenFileRows, dev: TokenFileRows) -> None:
    if not len(train) and not len(dev):
        raise UserError(
            Bilingual(
                f"{section.train} holds no text to train on. Give files with text.",
                f"{section.train}：没有可学习的文本：请给出有内容的文件。",
            )
        )
    if not len(train) or (not len(dev) and section.dev is None and section.dev_share):
        raise UserError(
            Bilingual(
                f"{section.train} is one document, so none can be held out for evaluation. Set data.dev to a file, data.dev_share=0, or "
                "data.blank_lines=true, which splits a plain text at blank lines.",
                f"{section.train}："
                f"只有一篇文档，无法留出评估数据：请用 data.dev 指定文件，或设 data.dev_share=0，或用 data.blank_lines=true 按空行分篇。",
            )
        )
    if not len(dev) and section.dev is not None:
        raise UserError(
            Bilingual(
                f"{section.dev} holds no text to evaluate on. Give files with text, or leave data.dev out.",
                f"{section.dev}：没有可评估的文本：请给出有内容的文件，或去掉 data.dev。",
            )
        )


def _key(section: TextsSection, tokenizer: Tokenizer) -> dict[str, object]:
    """Everything that determines the rows: knobs, vocabulary and files."""
    files = [file for source in (section.train, section.dev) if source is not None for file in list_text_files(source)]
    try:
        stats = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    except OSError as error:
        raise UserError(
            Bilingual(
                f"{error.filename}: cannot be read: {error.strerror}. Check data.train and data.dev.",
                f"{error.filename}：无法读取该文件：请检查 data.train 和 data.dev。",
            )
        ) from error
    knobs = section.model_dump(mode="json", exclude={"train", "dev", "train_rows", "dev_rows"})
    return {
        "files": stats,
        "knobs": knobs,
        "vocabulary": [len(tokenizer), *tokenizer.encode(VOCABULARY_PROBE)],
        "held_out": section.dev is None,
    }


def _is_written(folder: Path, key: dict[str, object]) -> bool:
    """Whether a folder holds the rows of this key; anything else is overwritten."""
    try:
        return bool(read_json(folder / KEY_FILE) == key)
    except (OSError, ValueError, RecursionError):
        return False


def _write_all(section: TextsSection, tokenizer: Tokenizer, folder: Path) -> None:
    frame = document_frame(tokenizer)
    every = 0 if section.dev is not None or not section.dev_share else round(1 / section.dev_share)
    for name in (TRAIN, DEV):
        (folder / name).mkdir()
    with TokenWriter(folder / TRAIN, frame, section.length) as train, TokenWriter(folder / DEV, frame, section.length) as dev:
        _write_source(section, section.train, tokenizer, train, dev, HeldOutDocuments(every, section.dev_seed))
        if section.dev is not None:
            _write_source(section, section.dev, tokenizer, dev, dev, HeldOutDocuments(0, 0))


def _write_source(
    section: TextsSection, source: Path, tokenizer: Tokenizer, train: TokenWriter, dev: TokenWriter, held_out: HeldOutDocuments
) -> None:
    """Tokenize the documents of a source into `train`, the held-out ones into `dev`."""
    bad_rows, document = BadRows(source), -1
    with ReadProgress(source) as progress:
        for location, part in read_document_parts(
            source, column=section.text_column, blank_lines=section.blank_lines, report_bytes=progress.report_bytes
        ):
            if isinstance(part, BadRowError):
                bad_rows.add(location, part)
                continue
            bad_rows.good += part.first
            document += part.first
            writer = dev if document in held_out else train
            writer.add(tokenizer.encode(part.text), location, len(part.text), first=part.first, last=part.last)
    bad_rows.raise_if_any(Bilingual("Fix {}; nothing was learned.", "请修正这些数据；没有开始学习。"))


class ReadProgress(Progress):
    """A progress bar over the bytes of a source."""

    def __init__(self, source: Path) -> None:
        total = sum(file.stat().st_size for file in list_text_files(source)) // PROGRESS_BYTES
        super().__init__(Bilingual("reading", "读取"), total, "kB", subject=str(source))
        self._rest = 0

    def report_bytes(self, size: int) -> None:
        """Count bytes."""
        units, self._rest = divmod(self._rest + size, PROGRESS_BYTES)
        self.advance(units)


def _describe(source: Path, rows: TokenFileRows, column: str | None) -> str:
    """The source and its counts, as text."""
    info, files = rows.info, describe_file_count(source, column)
    counts = f"{info.documents} documents, {info.characters} characters, {info.tokens} tokens in {info.rows} rows"
    used, chinese = (f", of which {len(rows)} are used", f"，用其中 {len(rows)} 行") if len(rows) < info.rows else ("", "")
    return Bilingual(
        f"{source}: {files.english}: {counts}{used}",
        f"{files.chinese}：{info.documents} 篇文档，{info.characters} 个字符，{info.tokens} 个词元，合 {info.rows} 行{chinese}",
    ).line


def _prompt_samples(rows: TokenFileRows, tokenizer: Tokenizer) -> list[Sample]:
    """Beginnings of the first held-out rows as prompts, which are continued greedily during the run."""
    texts = [tokenizer.decode(rows[row].sequences[0][0]) for row in range(min(MAX_PROMPTS, len(rows)))]
    prompts = [(text, row) for row, text in enumerate(texts) if text.strip()]
    return [Sample(text[:PROMPT_CHARACTERS], text[PROMPT_CHARACTERS:], None, rows.location(row)) for text, row in prompts]
