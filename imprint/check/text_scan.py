"""`imprint data check` and `show` for raw text: documents, and the rows that a run makes of them."""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.check.conclusion import train_commands
from imprint.check.duplicates import Digests, duplicated, leaked
from imprint.check.findings import EXAMPLES, FindingKind, FindingTally
from imprint.check.lengths import Lengths, histogram, summary
from imprint.check.report import bad_row_lines, finding_lines, heading, language_line, location_shortener
from imprint.check.settings import CheckSettings
from imprint.check.text_checks import LOST_CHARACTER, TYPED_SPECIAL_TOKEN, language, repeats_itself
from imprint.data.document_rows import RowPacker, document_frame
from imprint.data.encode import EncodedRow
from imprint.data.readers.bad_rows import BadRowError, FirstOfEachKind
from imprint.data.readers.documents import DocumentPart, describe_file_count, is_plain_text, list_text_files, read_document_parts
from imprint.data.readers.sources import detect_format, plain_encoding
from imprint.data.section import TextsSection
from imprint.data.texts import ReadProgress
from imprint.data.token_file import TokenFileRows, TokenWriter
from imprint.files.scratch import scratch_folder
from imprint.messages import Bilingual, UserError
from imprint.terminal import Style, say, style_for, terminal_columns
from imprint.tokenizers import Tokenizer

TEXT_KINDS: Final[Mapping[str, FindingKind]] = MappingProxyType(
    {
        "bad": FindingKind("error", Bilingual("rows or lines that cannot be read", "坏行")),
        "lost": FindingKind("error", Bilingual("documents that have lost characters (U+FFFD and the like)", "丢失字符的文档")),
        "leaked": FindingKind("error", Bilingual("documents that the held-out file has too", "留出数据中也有的文档")),
        "duplicated": FindingKind("warning", Bilingual("documents that repeat an earlier one word for word", "完全重复的文档")),
        "inside": FindingKind("warning", Bilingual("documents with special tokens typed in them, which stay text", "文中夹有控制符的文档")),
        "loops": FindingKind("warning", Bilingual("documents that mostly repeat themselves", "大段自我重复的文档")),
    }
)
"""Kinds of findings in raw text, most severe first."""


class TextScan:
    """Counts over the documents scanned so far, in almost constant memory."""

    def __init__(self, tokenizer: Tokenizer, section: TextsSection) -> None:
        self.documents = 0
        self.characters = 0
        self.lengths = Lengths(section.length)
        """Tokens of each document."""
        self.rows = 0
        """Number of rows they make."""
        self.languages: Counter[str] = Counter()
        self.findings: dict[str, FindingTally] = {name: FindingTally() for name in TEXT_KINDS}
        self.digests = Digests()
        """Hashes of the documents, in order."""
        self.text_column = section.text_column
        """The column of the text, if the user has named it."""
        self._tokenizer = tokenizer
        self._section = section
        self._frame = document_frame(tokenizer)
        self._packer = RowPacker(self._frame, section.length)

    def scan(self, source: str) -> None:
        """Scan all documents of a source and print bad rows. Raises UserError for what cannot be read."""
        tokens, digest, shown, first = 0, blake2b(digest_size=16), set[str](), FirstOfEachKind()
        with ReadProgress(Path(source)) as progress:
            parts = read_document_parts(
                source, column=self._section.text_column, blank_lines=self._section.blank_lines, report_bytes=progress.report_bytes
            )
            for location, part in parts:
                if isinstance(part, BadRowError):
                    if first.shows(part):
                        progress.say(bad_row_lines(location, part.reason))
                    self.findings["bad"].add(location, part.reason.line)
                    continue
                if part.first:
                    tokens, digest, shown = 0, blake2b(digest_size=16), set()
                    self.languages[language(part.text)] += 1
                tokens += len(self._tokenizer.encode(part.text))
                digest.update(part.text.encode())
                self.characters += len(part.text)
                self._scan_part(part, shown)
                if part.last:
                    self._add_document(location, tokens, digest.hexdigest())
        if (rest := first.rest_by_kind()) is not None:
            say(f"{rest.english}\n  {rest.chinese}")
        self.rows += sum(1 for _row in self._packer.finish())

    def _scan_part(self, part: DocumentPart, shown: set[str]) -> None:
        """Count the findings of a part, each kind once a document; `shown` holds the kinds counted so far."""
        matches = {"lost": LOST_CHARACTER.search(part.text), "inside": TYPED_SPECIAL_TOKEN.search(part.text)}
        excerpts = {name: part.text[max(match.start() - 20, 0) : match.end() + 20] for name, match in matches.items() if match}
        excerpts |= {"loops": part.text} if repeats_itself(part.text) else {}
        for name in excerpts.keys() - shown:
            self.findings[name].add(part.location, excerpts[name])
        shown |= excerpts.keys()

    def _add_document(self, location: str, tokens: int, digest: str) -> None:
        self.documents += 1
        self.lengths.add(tokens)
        self.digests.append(location, [], digest)
        self.rows += sum(1 for _row in self._packer.add(tokens + len(self._frame.bos) + len(self._frame.eos)))


def check_text_command(files: Sequence[str], dev: str | None, settings: CheckSettings, knobs: Sequence[str]) -> int:
    """Check sources of raw text and print the findings; returns exit status 0 if there is no error, else 1.

    `knobs`: further arguments of the command line. Raises UserError for what cannot be read.
    """
    assert settings.texts is not None, "only for raw text"
    style, short = style_for(sys.stdout), location_shortener([*files, *([dev] if dev else [])])
    held_out = None if dev is None else TextScan(settings.tokenizer, settings.texts)
    if dev is not None and held_out is not None:
        _scan_source(dev, held_out, style)
    scan = TextScan(settings.tokenizer, settings.texts)
    for source in files:
        _scan_source(source, scan, style)
    pairs = {"duplicated": (duplicated(scan.digests), scan.digests, "repeats")}
    if held_out is not None:
        pairs["leaked"] = leaked(scan.digests, held_out.digests), held_out.digests, "is"
        scan.findings["bad"].count += held_out.findings["bad"].count
    for name, (same, others, verb) in pairs.items():
        examples = list(same)[:EXAMPLES]
        scan.findings[name] = FindingTally(
            len(same), [(scan.digests.locations[row], f"{verb} {short(others.locations[match])}") for row, match in examples]
        )
    findings = {name: tally for name, tally in scan.findings.items() if tally.count}
    for line in (*_length_lines(scan, style), *language_line(scan.languages, style)):
        say(line)
    columns = terminal_columns(sys.stdout)
    for line in finding_lines(findings, short, compared=dev is not None, style=style, columns=columns, kinds=TEXT_KINDS):
        say(line)
    failed = not scan.documents or any(TEXT_KINDS[name].severity == "error" for name in findings)
    for line in _conclusion_lines(files, dev, scan, settings, knobs, failed=failed, style=style):
        say(line)
    return int(failed)


def describe_texts(source: str, column: str | None) -> Bilingual:
    """One sentence: number of files, formats, encodings and what is not read; in English it begins with the source.

    Raises UserError as `read_document_parts`.
    """
    formats = Counter(_describe_format(file) for file in list_text_files(source)).most_common()
    english = ", ".join(name.english if count == 1 else f"{count} × {name.english}" for name, count in formats)
    chinese = "、".join(name.chinese if count == 1 else f"{count} × {name.chinese}" for name, count in formats)
    files = describe_file_count(source, column)
    return Bilingual(f"{source}: {files.english}: {english}.", f"{files.chinese}：{chinese}。")


def _describe_format(file: Path) -> Bilingual:
    if not is_plain_text(file):
        return detect_format(file).description
    name = plain_encoding(file).name
    return Bilingual(f"plain text in {name}", f"纯文本，{name} 编码")


def first_rows(source: str, settings: CheckSettings, count: int) -> Iterator[tuple[str, EncodedRow]]:
    """The (location, row) of the first `count` rows that a run would make of a source, without holding any out."""
    assert settings.texts is not None, "only for raw text"
    with scratch_folder() as folder:
        with TokenWriter(folder, document_frame(settings.tokenizer), settings.texts.length) as writer:
            for location, part in read_document_parts(source, column=settings.texts.text_column, blank_lines=settings.texts.blank_lines):
                if isinstance(part, BadRowError):
                    raise UserError(part.at(location))
                if part.first:  # the first part of a long document is enough
                    writer.add(settings.tokenizer.encode(part.text), location, len(part.text), first=True, last=True)
                if writer.rows >= count:
                    break
        rows = TokenFileRows(folder, count)
        yield from ((rows.location(index), rows[index]) for index in range(len(rows)))


def _scan_source(source: str, scan: TextScan, style: Style) -> None:
    documents, bad = scan.documents, scan.findings["bad"].count
    described = describe_texts(source, scan.text_column)
    say("", style(described.english, "bold"), f"  {described.chinese}")
    scan.scan(source)
    documents, bad = scan.documents - documents, scan.findings["bad"].count - bad
    say("  " + Bilingual(f"{documents:,} documents, {bad:,} bad", f"{documents:,} 篇文档，{bad:,} 坏行").line)


def _length_lines(scan: TextScan, style: Style) -> Iterator[str]:
    if not scan.documents:
        return
    tokens, longer = sum(length * count for length, count in scan.lengths.counts.items()), scan.lengths.longer
    yield heading(Bilingual("lengths in tokens", "词元长度"), style)
    yield f"  {style(Bilingual('documents', '文档').line, 'underline')}   {summary(scan.lengths, 'row 行长')}"
    yield from (f"    {line}" for line in histogram(scan.lengths, style))
    amounts = Bilingual(
        f"{scan.characters:,} characters, {tokens:,} tokens in {scan.rows:,} rows; {longer:,} documents take more than one row",
        f"{scan.characters:,} 个字符，{tokens:,} 个词元，合 {scan.rows:,} 行；{longer:,} 篇文档不止一行",
    )
    yield f"    {amounts.line}"


def _conclusion_lines(
    files: Sequence[str], dev: str | None, scan: TextScan, settings: CheckSettings, knobs: Sequence[str], *, failed: bool, style: Style
) -> Iterator[str]:
    """The verdict in one line, and the commands to run next."""
    yield heading(Bilingual("verdict", "结论"), style)
    if failed:
        message = (
            Bilingual("something is wrong, marked ✗ above", "有问题，见上 ✗")
            if scan.documents
            else Bilingual("there is nothing to train on", "没有可学的内容")
        )
        yield "  " + style(f"✗ {message.line}", "red", "bold")
        return
    yield "  " + style("✓ " + Bilingual("nothing is wrong", "没有发现错误。").line, "green", "bold")
    if scan.documents == 1 and dev is None:
        yield "  ! There is one document, so none can be held out: set data.dev, or blank_lines=true to split it at blank lines."
    if len(files) > 1:
        return
    yield "  " + style("# " + Bilingual("shows the rows of tokens", "查看词元").line, "dim")
    yield "  " + style(shlex.join(["imprint", "data", "show", files[0], *knobs]), "cyan")
    data = {"train": files[0], **({"dev": dev} if dev else {}), **settings.text_knobs()}
    base = [] if settings.base is None else [f"model.path={settings.base}"]
    yield from train_commands("domain", files[0], [f"data={json.dumps(data, ensure_ascii=False)}", *base], style)
