"""Raw text, looked at as a run on it would read it: its documents, and the rows that they make."""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

from imprint.check.duplicates import Digests, leaked, repeated
from imprint.check.findings import EXAMPLES, FindingKind, FindingTally
from imprint.check.lengths import Lengths, histogram, summary
from imprint.check.report import finding_lines, heading, language_line, location_shortener
from imprint.check.settings import CheckSettings
from imprint.check.terminal import Style, style_for, terminal_columns
from imprint.check.text_checks import LOST_CHARACTER, TYPED_SPECIAL_TOKEN, language, repeats_itself
from imprint.data.document_rows import RowPacker, document_tokens
from imprint.data.encode import EncodedRow
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.documents import DocumentPart, describe_file_count, is_plain_text, list_text_files, read_document_parts
from imprint.data.readers.sources import detect_format, plain_encoding
from imprint.data.section import TextsSection
from imprint.data.texts import ReadProgress
from imprint.data.token_file import TokenFileRows, TokenWriter
from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.tokenizers import Tokenizer

TEXT_KINDS: Final[Mapping[str, FindingKind]] = MappingProxyType(
    {
        "bad": FindingKind("error", Bilingual("rows or lines that cannot be read", "坏行")),
        "lost": FindingKind("error", Bilingual("documents that have lost characters (U+FFFD and the like)", "丢失字符的文档")),
        "leaked": FindingKind("error", Bilingual("documents that the held-out file has too", "留出数据中也有的文档")),
        "repeated": FindingKind("warning", Bilingual("documents that repeat an earlier one word for word", "完全重复的文档")),
        "inside": FindingKind("warning", Bilingual("documents with control tokens in them, which stay text", "文中夹有控制符的文档")),
        "loops": FindingKind("warning", Bilingual("documents that mostly repeat themselves", "大段自我重复的文档")),
    }
)
"""What is looked for in raw text, the gravest first."""


class TextScan:
    """What has been seen of some documents so far, in memory that hardly grows."""

    def __init__(self, tokenizer: Tokenizer, section: TextsSection) -> None:
        self.documents = 0
        self.characters = 0
        self.lengths = Lengths(section.length)
        """Tokens of each document."""
        self.rows = 0
        """How many rows they make."""
        self.languages: Counter[str] = Counter()
        self.findings: dict[str, FindingTally] = {name: FindingTally() for name in TEXT_KINDS}
        self.digests = Digests()
        """The documents, in their order."""
        self._tokenizer = tokenizer
        self._section = section
        self._frame = document_tokens(tokenizer)
        self._cutter = RowPacker(self._frame, section.length)

    def scan(self, source: str) -> None:
        """Look at all documents of a source, telling bad rows as they come; raises UserError for what cannot be read."""
        tokens, digest, shown = 0, blake2b(digest_size=16), set[str]()
        with ReadProgress(Path(source)) as reading:
            passages = read_document_parts(
                source, column=self._section.text_column, blank_lines=self._section.blank_lines, consumed=reading.consumed
            )
            for location, passage in passages:
                if isinstance(passage, BadRowError):
                    reading.say(f"✗ {location}: {passage}")
                    self.findings["bad"].add(location, str(passage))
                    continue
                if passage.first:
                    tokens, digest, shown = 0, blake2b(digest_size=16), set()
                    self.languages[language(passage.text)] += 1
                tokens += len(self._tokenizer.encode(passage.text))
                digest.update(passage.text.encode())
                self.characters += len(passage.text)
                self._scan_part(passage, shown)
                if passage.last:
                    self._add_document(location, tokens, digest.hexdigest())
        self.rows += sum(1 for _row in self._cutter.finish())

    def _scan_part(self, passage: DocumentPart, shown: set[str]) -> None:
        """Count what a passage shows, each kind once a document."""
        signs = {"lost": LOST_CHARACTER.search(passage.text), "inside": TYPED_SPECIAL_TOKEN.search(passage.text)}
        texts = {name: passage.text[max(sign.start() - 20, 0) : sign.end() + 20] for name, sign in signs.items() if sign}
        texts |= {"loops": passage.text} if repeats_itself(passage.text) else {}
        for name in texts.keys() - shown:
            self.findings[name].add(passage.location, texts[name])
        shown |= texts.keys()

    def _add_document(self, location: str, tokens: int, digest: str) -> None:
        self.documents += 1
        self.lengths.add(tokens, tokens)
        self.digests.append(location, [], digest)
        self.rows += sum(1 for _row in self._cutter.add(tokens + len(self._frame.bos) + len(self._frame.eos)))


def check_text_command(files: Sequence[str], dev: str | None, settings: CheckSettings, knobs: Sequence[str]) -> int:
    """Check sources of raw text and print what was found; returns 0 where nothing is wrong, else 1.

    `knobs` are what the user has typed behind them. Raises UserError for what cannot be read.
    """
    assert settings.texts is not None, "rows are checked elsewhere"
    ink, short = style_for(sys.stdout), location_shortener([*files, *([dev] if dev else [])])
    held_out = None if dev is None else TextScan(settings.tokenizer, settings.texts)
    if dev is not None and held_out is not None:
        _scan_source(dev, held_out, ink)
    seen = TextScan(settings.tokenizer, settings.texts)
    for source in files:
        _scan_source(source, seen, ink)
    pairs = {"repeated": (repeated(seen.digests), seen.digests, "repeats")}
    if held_out is not None:
        pairs["leaked"] = leaked(seen.digests, held_out.digests), held_out.digests, "is"
        seen.findings["bad"].count += held_out.findings["bad"].count
    for name, (same, others, word) in pairs.items():
        examples = list(same)[:EXAMPLES]
        seen.findings[name] = FindingTally(
            len(same), [(seen.digests.locations[row], f"{word} {short(others.locations[like])}") for row, like in examples]
        )
    found = {name: tally for name, tally in seen.findings.items() if tally.count}
    for line in (*_length_lines(seen, ink), *language_line(seen.languages, ink)):
        print(line)  # noqa: T201
    for line in finding_lines(found, short, compared=dev is not None, ink=ink, columns=terminal_columns(sys.stdout), kinds=TEXT_KINDS):
        print(line)  # noqa: T201
    wrong = not seen.documents or any(TEXT_KINDS[name].severity == "error" for name in found)
    for line in _conclusion_lines(files, dev, seen, settings, knobs, wrong=wrong, ink=ink):
        print(line)  # noqa: T201
    return int(wrong)


def describe_texts(source: str) -> str:
    """One sentence: how many files there are, in which formats and encodings. Raises UserError as `read_document_parts`."""
    forms = Counter(
        f"plain text in {plain_encoding(file).name}" if is_plain_text(file) else detect_format(file).description
        for file in list_text_files(source)
    )
    listed = ", ".join(form if count == 1 else f"{count} × {form}" for form, count in forms.most_common())
    return f"{source}: {describe_file_count(source)}: {listed}."


def first_rows(source: str, settings: CheckSettings, count: int) -> Iterator[tuple[str, EncodedRow]]:
    """The (place, row) of the first so many rows that a run would make of a source, in which nothing is held out."""
    assert settings.texts is not None, "rows are shown elsewhere"
    with TemporaryDirectory() as folder:
        with TokenWriter(Path(folder), document_tokens(settings.tokenizer), settings.texts.length) as writer:
            for location, passage in read_document_parts(source, column=settings.texts.text_column, blank_lines=settings.texts.blank_lines):
                if isinstance(passage, BadRowError):
                    raise UserError(f"{location}: {passage}")
                if passage.first:  # of a document of a million characters the beginning will do
                    writer.add(settings.tokenizer.encode(passage.text), location, len(passage.text), first=True, last=True)
                if writer.rows >= count:
                    break
        rows = TokenFileRows(Path(folder), count)
        yield from ((rows.location(number), rows[number]) for number in range(len(rows)))


def _scan_source(source: str, seen: TextScan, ink: Style) -> None:
    documents, bad = seen.documents, seen.findings["bad"].count
    print(f"\n{ink(describe_texts(source), 'bold')}")  # noqa: T201
    seen.scan(source)
    documents, bad = seen.documents - documents, seen.findings["bad"].count - bad
    print("  " + Bilingual(f"{documents:,} documents, {bad:,} bad", f"{documents:,} 篇文档，{bad:,} 坏行").line)  # noqa: T201


def _length_lines(seen: TextScan, ink: Style) -> Iterator[str]:
    if not seen.documents:
        return
    tokens, longer = sum(length * count for length, count in seen.lengths.counts.items()), seen.lengths.longer
    yield heading(Bilingual("lengths in tokens", "词元长度"), ink)
    yield f"  {ink(Bilingual('documents', '文档').line, 'underline')}   {summary(seen.lengths)} · row {seen.lengths.limit:,}"
    yield from (f"    {line}" for line in histogram(seen.lengths, ink))
    yield f"    {seen.characters:,} characters, {tokens:,} tokens in {seen.rows:,} rows; {longer:,} documents take more than one row"


def _conclusion_lines(
    files: Sequence[str], dev: str | None, seen: TextScan, settings: CheckSettings, knobs: Sequence[str], *, wrong: bool, ink: Style
) -> Iterator[str]:
    """One line that says whether something is wrong, and the commands that come next."""
    yield heading(Bilingual("verdict", "结论"), ink)
    if wrong:
        words = (
            Bilingual("something is wrong, marked ✗ above", "有问题，见上 ✗")
            if seen.documents
            else Bilingual("there is nothing to learn from", "没有可学的内容")
        )
        yield "  " + ink(f"✗ {words.line}", "red", "bold")
        return
    yield "  " + ink("✓ " + Bilingual("nothing is wrong", "没有发现错误。").line, "green", "bold")
    if seen.documents == 1 and dev is None:
        yield "  ! It is one document, so none can be held out: name data.dev, or let blank lines part it (blank_lines=true)."
    if len(files) > 1:
        return
    yield "  " + ink("# " + Bilingual("shows the rows of tokens", "看词元").line, "dim")
    yield "  " + ink(shlex.join(["imprint", "data", "show", files[0], *knobs]), "cyan")
    data = {"train": files[0], **({"dev": dev} if dev else {}), **settings.text_knobs()}
    yield "  " + ink("# " + Bilingual("learns from them", "开始训练").line, "dim")
    yield "  " + ink(shlex.join(["imprint", "train", "RECIPE.yaml", f"data={json.dumps(data, ensure_ascii=False)}"]), "cyan")
