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
from imprint.check.findings import EXAMPLES, Kind, Tally
from imprint.check.lengths import Lengths, histogram, summary
from imprint.check.report import finding_lines, heading, language_line, shortened
from imprint.check.settings import Settings
from imprint.check.terminal import Ink, columns_of, ink_for
from imprint.check.text_checks import CONTROL_TOKEN, LOST, language, repeats_itself
from imprint.data.document_rows import Cutter, frame_of
from imprint.data.encode import Encoded
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.documents import Passage, counted, plain, read_passages, text_files
from imprint.data.readers.sources import look_into, plain_encoding
from imprint.data.section import TextsSection
from imprint.data.texts import Reading
from imprint.data.token_file import TextRows, TokenWriter
from imprint.errors import UserError
from imprint.tokenizers import Tokenizer

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "bad": Kind("wrong", "rows or lines that cannot be read", "坏行"),
        "lost": Kind("wrong", "documents that have lost characters (U+FFFD and the like)", "丢失字符的文档"),
        "leaked": Kind("wrong", "documents that the held-out file has too", "留出数据中也有的文档"),
        "repeated": Kind("advice", "documents that repeat an earlier one word for word", "完全重复的文档"),
        "inside": Kind("advice", "documents with control tokens in them, which stay text", "文中夹有控制符的文档"),
        "loops": Kind("advice", "documents that mostly repeat themselves", "大段自我重复的文档"),
    }
)
"""What is looked for in raw text, the gravest first."""


class Corpus:
    """What has been seen of some documents so far, in memory that hardly grows."""

    def __init__(self, tokenizer: Tokenizer, section: TextsSection) -> None:
        self.documents = 0
        self.characters = 0
        self.lengths = Lengths(section.length)
        """Tokens of each document."""
        self.rows = 0
        """How many rows they make."""
        self.languages: Counter[str] = Counter()
        self.found: dict[str, Tally] = {name: Tally() for name in KINDS}
        self.digests = Digests()
        """The documents, in their order."""
        self._tokenizer = tokenizer
        self._section = section
        self._frame = frame_of(tokenizer)
        self._cutter = Cutter(self._frame, section.length)

    def read(self, source: str) -> None:
        """Look at all documents of a source, telling bad rows as they come; raises UserError for what cannot be read."""
        tokens, digest, shown = 0, blake2b(digest_size=16), set[str]()
        with Reading(Path(source)) as reading:
            passages = read_passages(
                source, column=self._section.text_column, blank_lines=self._section.blank_lines, consumed=reading.consumed
            )
            for place, passage in passages:
                if isinstance(passage, BadRowError):
                    reading.say(f"✗ {place}: {passage}")
                    self.found["bad"].add(place, str(passage))
                    continue
                if passage.first:
                    tokens, digest, shown = 0, blake2b(digest_size=16), set()
                    self.languages[language(passage.text)] += 1
                tokens += len(self._tokenizer.encode(passage.text))
                digest.update(passage.text.encode())
                self.characters += len(passage.text)
                self._look(passage, shown)
                if passage.last:
                    self._add(place, tokens, digest.hexdigest())
        self.rows += sum(1 for _row in self._cutter.finish())

    def _look(self, passage: Passage, shown: set[str]) -> None:
        """Count what a passage shows, each kind once a document."""
        signs = {"lost": LOST.search(passage.text), "inside": CONTROL_TOKEN.search(passage.text)}
        texts = {name: passage.text[max(sign.start() - 20, 0) : sign.end() + 20] for name, sign in signs.items() if sign}
        texts |= {"loops": passage.text} if repeats_itself(passage.text) else {}
        for name in texts.keys() - shown:
            self.found[name].add(passage.place, texts[name])
        shown |= texts.keys()

    def _add(self, place: str, tokens: int, digest: str) -> None:
        self.documents += 1
        self.lengths.add(tokens, tokens)
        self.digests.append(place, [], digest)
        self.rows += sum(1 for _row in self._cutter.document(tokens + len(self._frame.first) + len(self._frame.last)))


def check_texts(files: Sequence[str], dev: str | None, settings: Settings, knobs: Sequence[str]) -> int:
    """Check sources of raw text and print what was found; returns 0 where nothing is wrong, else 1.

    `knobs` are what the user has typed behind them. Raises UserError for what cannot be read.
    """
    assert settings.texts is not None, "rows are checked elsewhere"
    ink, short = ink_for(sys.stdout), shortened([*files, *([dev] if dev else [])])
    held_out = None if dev is None else Corpus(settings.tokenizer, settings.texts)
    if dev is not None and held_out is not None:
        _read(dev, held_out, ink)
    seen = Corpus(settings.tokenizer, settings.texts)
    for source in files:
        _read(source, seen, ink)
    pairs = {"repeated": (repeated(seen.digests), seen.digests, "repeats")}
    if held_out is not None:
        pairs["leaked"] = leaked(seen.digests, held_out.digests), held_out.digests, "is"
        seen.found["bad"].count += held_out.found["bad"].count
    for name, (same, others, word) in pairs.items():
        examples = list(same)[:EXAMPLES]
        seen.found[name] = Tally(len(same), [(seen.digests.places[row], f"{word} {short(others.places[like])}") for row, like in examples])
    found = {name: tally for name, tally in seen.found.items() if tally.count}
    for line in (*_lengths(seen, ink), *language_line(seen.languages, ink)):
        print(line)  # noqa: T201
    for line in finding_lines(found, short, compared=dev is not None, ink=ink, columns=columns_of(sys.stdout), kinds=KINDS):
        print(line)  # noqa: T201
    wrong = not seen.documents or any(KINDS[name].weight == "wrong" for name in found)
    for line in _verdict(files, dev, seen, settings, knobs, wrong=wrong, ink=ink):
        print(line)  # noqa: T201
    return int(wrong)


def described(source: str) -> str:
    """One sentence: how many files there are, in which formats and encodings. Raises UserError as `read_passages`."""
    forms = Counter(f"plain text in {plain_encoding(file).name}" if plain(file) else look_into(file).form for file in text_files(source))
    return f"{source}: {counted(source)}: {', '.join(form if count == 1 else f'{count} × {form}' for form, count in forms.most_common())}."


def first_rows(source: str, settings: Settings, count: int) -> Iterator[tuple[str, Encoded]]:
    """The (place, row) of the first so many rows that a run would make of a source, in which nothing is held out."""
    assert settings.texts is not None, "rows are shown elsewhere"
    with TemporaryDirectory() as folder:
        with TokenWriter(Path(folder), frame_of(settings.tokenizer), settings.texts.length) as writer:
            for place, passage in read_passages(source, column=settings.texts.text_column, blank_lines=settings.texts.blank_lines):
                if isinstance(passage, BadRowError):
                    raise UserError(f"{place}: {passage}")
                if passage.first:  # of a document of a million characters the beginning will do
                    writer.add(settings.tokenizer.encode(passage.text), place, len(passage.text), first=True, last=True)
                if writer.rows >= count:
                    break
        rows = TextRows(Path(folder), count)
        yield from ((rows.place(number), rows[number]) for number in range(len(rows)))


def _read(source: str, seen: Corpus, ink: Ink) -> None:
    documents, bad = seen.documents, seen.found["bad"].count
    print(f"\n{ink(described(source), 'bold')}")  # noqa: T201
    seen.read(source)
    documents, bad = seen.documents - documents, seen.found["bad"].count - bad
    print(f"  {documents:,} documents, {bad:,} bad / {documents:,} 篇文档，{bad:,} 坏行")  # noqa: T201


def _lengths(seen: Corpus, ink: Ink) -> Iterator[str]:
    if not seen.documents:
        return
    tokens, longer = sum(length * count for length, count in seen.lengths.counts.items()), seen.lengths.longer
    yield heading("lengths in tokens", "词元长度", ink)
    yield f"  {ink('documents / 文档', 'underline')}   {summary(seen.lengths)} · row {seen.lengths.limit:,}"
    yield from (f"    {line}" for line in histogram(seen.lengths, ink))
    yield f"    {seen.characters:,} characters, {tokens:,} tokens in {seen.rows:,} rows; {longer:,} documents take more than one row"


def _verdict(
    files: Sequence[str], dev: str | None, seen: Corpus, settings: Settings, knobs: Sequence[str], *, wrong: bool, ink: Ink
) -> Iterator[str]:
    """One line that says whether something is wrong, and the commands that come next."""
    yield heading("verdict", "结论", ink)
    if wrong:
        words = (
            "something is wrong, marked ✗ above / 有问题，见上 ✗" if seen.documents else "there is nothing to learn from / 没有可学的内容"
        )
        yield "  " + ink(f"✗ {words}", "red", "bold")
        return
    yield "  " + ink("✓ nothing is wrong / 没有发现错误。", "green", "bold")
    if seen.documents == 1 and dev is None:
        yield "  ! It is one document, so none can be held out: name data.dev, or let blank lines part it (blank_lines=true)."
    if len(files) > 1:
        return
    yield "  " + ink("# shows the rows of tokens / 看词元", "dim")
    yield "  " + ink(shlex.join(["imprint", "data", "show", files[0], *knobs]), "cyan")
    data = {"train": files[0], **({"dev": dev} if dev else {}), **settings.texts_knobs()}
    yield "  " + ink("# learns from them / 开始训练", "dim")
    yield "  " + ink(shlex.join(["imprint", "train", "RECIPE.yaml", f"data={json.dumps(data, ensure_ascii=False)}"]), "cyan")
