"""`imprint perplexity RUN|MODEL --data FILE`: perplexity of texts per token and per character, before and after tuning."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from imprint.config import read_overrides
from imprint.data.document_rows import DocumentFrame, SlidingWindows, Window, document_frame
from imprint.data.readers.bad_rows import BadRowError, BadRows
from imprint.data.readers.documents import DocumentPart, list_text_files, read_document_parts
from imprint.data.section import TextsSection
from imprint.evaluate.digests import settings_digest, text_digest
from imprint.evaluate.results_lock import results_lock
from imprint.evaluate.section import PerplexitySection
from imprint.files.atomic import append_jsonl, read_jsonl, write_json, write_jsonl
from imprint.files.disk_errors import refuse_unwritable
from imprint.files.typed_json import typed
from imprint.inference.likelihood import row_losses
from imprint.loading.load import load_with
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.metrics.perplexity import LossSums, Perplexity
from imprint.model import Model
from imprint.progress import Progress
from imprint.runtime import is_out_of_memory
from imprint.terminal import say

MAX_WINDOW = 2048
"""Default window in tokens, if the base supports as many."""
DELETE_LINES = Bilingual("Delete the file, and measure again.", "请删除该文件，再重新测量。")


@dataclass(frozen=True)
class MeasuredText:
    """A file or folder of documents to measure."""

    source: Path
    """The file or folder."""
    name: str
    """Name of its results."""
    documents: int
    """Number of documents."""
    characters: int
    """Number of characters."""


@dataclass(frozen=True)
class MeasuredDocument:
    """A document that has been measured, as a line of the results."""

    tokens: int
    """Number of predicted tokens."""
    characters: int
    """Number of characters."""
    nats: float
    """Summed loss in nats."""
    key: str = ""
    """Key of the texts and settings; empty in files of earlier versions."""


def perplexity_command(
    path: str | Path, *, data: Sequence[Path], limit: int | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure texts with a run, before and after tuning, or with a model folder; returns the content of scores.json.

    `limit`: number of documents of each source.
    """
    section = read_overrides(overrides, PerplexitySection)
    if section.output is not None:
        refuse_unwritable(section.output)  # before a model of the hub is downloaded
    source = resolve_source(path, section.base_path)
    section = resolve(section, source.run)
    texts = [_scan(file, number, section, limit) for number, file in enumerate(data, start=1)]
    output = section.output or source.output_folder / "perplexity"
    with results_lock(output):
        report = _measure_sides(source, section, texts, output)
        write_json(output / "scores.json", report)
    for line in perplexity_lines(report, output):
        say(line)
    return report


def _measure_sides(source: ModelSource, section: PerplexitySection, texts: Sequence[MeasuredText], output: Path) -> dict[str, Any]:
    """The content of scores.json: each text by the base, and by the tuned model of a run."""
    run = source.run
    sides = ["base"] if run is None or section.base else ["base", "tuned"]
    perplexities: dict[str, list[Perplexity]] = {}
    for side in sides:
        # An adapter given by the user is for the tuned side.
        without_adapter = {"adapter": None} if len(sides) == 2 and side == "base" else {}
        model = load_with(source, section.model_copy(update={"base": run is not None and side == "base", **without_adapter}))
        perplexities[side] = [measure(model, text, section, output / side / f"{text.name}.jsonl", f"{side}: ") for text in texts]
        del model  # memory may not hold two models
    return {
        "texts": [
            {"data": str(text.source), "documents": text.documents, "characters": text.characters}
            | {side: asdict(perplexities[side][index]) for side in sides}
            for index, text in enumerate(texts)
        ],
        "settings": section.model_dump(mode="json"),
    }


def resolve(section: PerplexitySection, run: RunConfig | None) -> PerplexitySection:
    """Fill in null knobs from a run on texts, else from the defaults."""
    texts_section = run.data if run is not None and isinstance(run.data, TextsSection) else TextsSection(kind="texts", train=Path())
    filled: dict[str, Any] = {"text_column": section.text_column or texts_section.text_column}
    if section.blank_lines is None:
        filled["blank_lines"] = texts_section.blank_lines
    if section.length is None and run is not None and texts_section is run.data:
        filled["length"] = texts_section.length
    return section.model_copy(update=filled)


def _parts(source: Path, section: PerplexitySection, limit: int | None) -> Iterator[tuple[str, DocumentPart | BadRowError]]:
    documents = 0
    for location, part in read_document_parts(source, column=section.text_column, blank_lines=bool(section.blank_lines)):
        documents += isinstance(part, BadRowError) or part.first
        if limit is not None and documents > limit:
            return
        yield location, part


def _scan(source: Path, number: int, section: PerplexitySection, limit: int | None) -> MeasuredText:
    """Count documents and characters of a source. Raises UserError for bad rows, before any weight is read."""
    bad_rows, characters = BadRows(source), 0
    for location, part in _parts(source, section, limit):
        if isinstance(part, BadRowError):
            bad_rows.add(location, part)
        else:
            bad_rows.good += part.first
            characters += len(part.text)
    bad_rows.raise_if_any(Bilingual("Fix {}; nothing was measured.", "请修正这些数据；没有测量。"))
    if not bad_rows.good:
        raise UserError(
            Bilingual(
                f"{source} holds no text to measure. Give a file of text, a file of rows with a column of text, or a folder of either.",
                f"{source}：没有可测量的文本：请给出文本文件、含文本列的数据文件，或其目录。",
            )
        )
    return MeasuredText(source, f"{number}-{source.stem}" + (f"-first-{limit}" if limit else ""), bad_rows.good, characters)


def measure(model: Model, text: MeasuredText, section: PerplexitySection, file: Path, title: str = "") -> Perplexity:
    """The perplexity of a text.

    Each document becomes a line of `file` as soon as it is measured: a killed command resumes after them, and a repeated one only sums up.
    Lines of another model, other files or other settings are discarded. Raises UserError where a document's loss is not finite.
    """
    key, before = _reusable_lines(model, text, section, file)
    sums = LossSums()
    for line in before:
        sums.add(line.tokens, line.characters, line.nats)
    batcher = _WindowBatcher(model, section)
    done, start = len(before), sum(line.characters for line in before)
    with Progress(Bilingual("measuring", "测量"), text.characters, "character", subject=f"{title}{text.source}", start=start) as progress:
        for document in batcher.documents(_skip_measured(_parts(text.source, section, text.documents), done)):
            append_jsonl(file, asdict(MeasuredDocument(document.tokens, document.characters, document.loss_sum, key)))
            sums.add(document.tokens, document.characters, document.loss_sum)
            progress.advance(document.characters)
    return sums.perplexity()


def _reusable_lines(model: Model, text: MeasuredText, section: PerplexitySection, file: Path) -> tuple[str, list[MeasuredDocument]]:
    """(the key of new lines, those of an earlier command with the same texts and settings); without any, starts a new file.

    Each line has the key, so that one that another process has written after this first line is not taken for its own.
    """
    try:
        files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in list_text_files(text.source)]
    except OSError as error:
        raise UserError(Bilingual(f"{error.filename}: cannot be read: {error.strerror}.", f"{error.filename}：无法读取该文件。")) from error
    # These change no result, or are part of the model's identity.
    ignored = {"output", "base", "adapter", "base_path", "template", "batch_tokens"}
    settings = section.model_dump(mode="json", exclude=ignored)
    first = {"model": model.identity, "files": text_digest(repr(files)), "settings": settings}
    key = settings_digest(first)
    lines = read_jsonl(file)
    own: list[MeasuredDocument] = []
    if lines[:1] == [first]:
        read = (typed(line, MeasuredDocument, f"{file}:{number}", DELETE_LINES) for number, line in enumerate(lines[1:], start=2))
        own = list(takewhile(lambda line: line.key in ("", key), read))
    if len(own) + 1 != len(lines):
        write_jsonl(file, [first, *map(asdict, own)])
    return key, own


def _skip_measured(parts: Iterable[tuple[str, DocumentPart | BadRowError]], done: int) -> Iterator[DocumentPart]:
    """The parts after the first `done` documents."""
    documents = 0
    for _location, part in parts:
        assert isinstance(part, DocumentPart), "_scan raised for bad rows"
        documents += part.first
        if documents > done:
            yield part


@dataclass
class _DocumentSums:
    """Sums over a document that is being measured."""

    location: str
    """File and line where it begins."""
    tokens: int = 0
    """Number of scored tokens."""
    characters: int = 0
    """Number of characters."""
    loss_sum: float = 0.0
    """Sum of the token losses."""
    complete: bool = False
    """Whether it was read to its end."""
    pending: int = 0
    """Number of windows not computed yet."""


@dataclass
class _WindowBatcher:
    """Gathers windows of documents into batches and computes their losses."""

    model: Model
    section: PerplexitySection
    batch: list[tuple[_DocumentSums, Window]] = field(default_factory=list)

    def documents(self, parts: Iterable[DocumentPart]) -> Iterator[_DocumentSums]:
        """Documents in order, each after all of its windows are computed."""
        special = document_frame(self.model.tokenizer)
        length, stride = self._window(special)
        windows, unfinished = SlidingWindows(special, length, stride), list[_DocumentSums]()
        for part in parts:
            if part.first:
                unfinished.append(_DocumentSums(part.location))
            document = unfinished[-1]
            document.characters += len(part.text)
            document.complete = part.last
            ids = self.model.tokenizer.encode(part.text)
            for window in windows.add(ids, first=part.first, last=part.last):
                document.pending += 1
                document.tokens += window.num_scored
                self.batch.append((document, window))
                if sum(len(window.ids) for _, window in self.batch) >= self.section.batch_tokens:
                    self._compute()
            while unfinished and unfinished[0].complete and not unfinished[0].pending:
                yield unfinished.pop(0)
        self._compute()
        yield from unfinished

    def _window(self, special: DocumentFrame) -> tuple[int, int]:
        """Length and stride of the windows, from the section or the model."""
        length = self.section.length or min(MAX_WINDOW, self.model.network.shape.max_length)
        max_stride = length - len(special.sequence_prefix) - special.overlap
        stride = self.section.stride or max(1, length // 2)
        if stride > max_stride:
            raise UserError(
                Bilingual(
                    f"stride: must be at most {max_stride} with windows of {length} tokens, or some tokens would be skipped; got {stride}.",
                    f"stride 不能超过 {max_stride}，否则会漏掉一些词元。",
                )
            )
        return length, stride

    def _compute(self) -> None:
        if not self.batch:
            return
        for (document, window), loss in zip(self.batch, window_losses(self.model, [window for _, window in self.batch]), strict=True):
            if not torch.isfinite(torch.tensor(loss)):
                raise UserError(
                    Bilingual(
                        f"{document.location}: the loss of this text is not finite. Use dtype=float32, or check the model's weights.",
                        f"{document.location}：这段文本的损失不是有限值：请使用 dtype=float32，或检查模型权重。",
                    )
                )
            document.loss_sum += loss
            document.pending -= 1
            assert window.num_scored, "every window scores tokens"
        self.batch.clear()


@torch.no_grad()
def window_losses(model: Model, windows: Sequence[Window]) -> list[float]:
    """Summed cross-entropy of each window's new tokens; a batch that runs out of memory is halved."""
    ids, labels = [window.ids for window in windows], [window.labels for window in windows]
    try:
        return row_losses(model.network, ids, labels, prefix=model.prefix())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(windows) == 1:
            raise
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(windows) // 2
    return window_losses(model, windows[:half]) + window_losses(model, windows[half:])


def perplexity_lines(report: dict[str, Any], output: Path) -> list[str]:
    """The perplexities as printed lines."""
    lines = []
    for text in report["texts"]:
        lines.append(f"{text['data']}: {text['documents']} documents, {text['characters']} characters; perplexity / 困惑度:")
        names = {"base": ("before", "微调前"), "tuned": ("after", "微调后")} if "tuned" in text else {"base": ("model", "模型")}
        for side, (english, chinese) in names.items():
            token, character = (_with_interval(text[side][unit]) for unit in ("token", "character"))
            lines.append(f"  {english:6} {chinese}  {token:>28} per token 每词元  {character:>28} per character 每字符")
    return [*lines, f"written to {output}"]


def _with_interval(perplexity: dict[str, float | None]) -> str:
    """A perplexity with its confidence interval."""
    interval = "" if perplexity["low"] is None else f" ({perplexity['low']:.2f} - {perplexity['high']:.2f})"
    return f"{perplexity['perplexity']:.2f}{interval}"
