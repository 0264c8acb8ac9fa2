"""One pass over all rows in almost constant memory: counts, first locations and hashes."""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from imprint.check.duplicates import Digests
from imprint.check.findings import EXAMPLES, FindingTally
from imprint.check.lengths import Lengths
from imprint.check.proposal import RowKinds
from imprint.check.repair import RepairedRow, repair_row, sample_texts
from imprint.check.settings import CheckSettings
from imprint.check.text_checks import LOST_CHARACTER, TYPED_SPECIAL_TOKEN, clean_text, ends_mid_sentence, language, repeats_itself
from imprint.data.encode import EncodedRow
from imprint.data.limits import SHARE, UNLIMITED, LengthLimits
from imprint.data.readers.bad_rows import BadRowError, MissingColumnError, bounded_kind
from imprint.data.sample import Sample
from imprint.data.shapes import RowShape, samples_from_row
from imprint.messages import Bilingual, UserError

SENTENCE_END: Final = re.compile(r"[。！？!?.…；;~～\n]\W*$")
EXCERPT_CHARACTERS: Final = 24
"""Characters around a match."""


class DataScan:
    """Counts over the rows scanned so far."""

    def __init__(self, settings: CheckSettings) -> None:
        self.rows = 0
        """Number of rows, bad ones included."""
        self.samples = 0
        """Number of samples."""
        self.bad_rows = 0
        """Number of rows that cannot be read."""
        self.bad_reasons: Counter[Bilingual] = Counter()
        """Kind of bad rows -> count."""
        self.empty_reasons: Counter[Bilingual] = Counter()
        """The same for rows without a question or an answer."""
        self.prompt_lengths = Lengths(settings.max_source_length or UNLIMITED)
        self.answer_lengths = Lengths(settings.max_target_length or UNLIMITED)
        self.shape_kinds: set[str] = set()
        """The kinds of shapes among the rows."""
        self.languages: Counter[str] = Counter()
        self.findings: defaultdict[str, FindingTally] = defaultdict(FindingTally)
        """Kind of finding -> count and examples."""
        self.digests = Digests()
        """Hashes of the rows that can be read or repaired, in order."""
        self.guess: Mapping[str, str] = {}
        """Knob -> column that the first row without the named columns suggests."""
        self.supports_tools = settings.template.supports_tools
        """Whether the model's template supports tools."""
        self.kinds = RowKinds()
        """What the rows are like."""
        self.held_out: DataScan | None = None
        """The scan of the held-out rows: the limits are chosen for them too."""
        self.partly_read: dict[str, int] = {}
        """Source that was not read to its end -> number of rows that were."""
        self._settings = settings
        self._needed = array("I"), array("I")
        """The longest prompt and the longest answer of each row, in tokens, while the limits are to be chosen; 0 of a bad row."""
        self._again: Iterator[tuple[int, int]] = iter(())
        """The same once more, for `add_cut`."""

    def add(self, location: str, value: object, shape: RowShape) -> BadRowError | None:
        """Scan one row; returns the error if it cannot be read."""
        self.rows += 1
        for lengths in self._needed:
            lengths.append(0)
        self.shape_kinds.add(shape.kind)
        try:
            samples = samples_from_row(value, shape, location, tools=self.supports_tools)
            self._measure_all(samples)
        except (BadRowError, UserError) as error:
            problem = error if isinstance(error, BadRowError) else BadRowError(error.message)
            self.bad_rows += 1
            if isinstance(problem, MissingColumnError):
                self.guess = self.guess or problem.guess
            reasons = self.empty_reasons if problem.is_empty else self.bad_reasons
            reasons[bounded_kind(problem.kind, reasons)] += 1
            self._remember_repaired(location, repair_row(value, shape, location, tools=self.supports_tools))
            return problem
        self.samples += len(samples)
        self.kinds.add(samples, shape)
        if not samples:
            self.findings["nothing"].add(location, "")
            return None
        texts = list(sample_texts(samples[-1]))
        if self._scan_texts(location, texts):
            self._remember(location, texts)
        else:
            self._remember_repaired(location, repair_row(value, shape, location, tools=self.supports_tools))
        self.languages[language("\n".join(texts))] += 1
        return None

    def _remember_repaired(self, location: str, repaired: RepairedRow) -> None:
        """Hash the repaired row, so that rows that differ only in what is repaired count as equal."""
        if repaired.samples:
            self._remember(location, list(sample_texts(repaired.samples[-1])))

    def _remember(self, location: str, texts: Sequence[str]) -> None:
        *prompt, answer = texts
        self.digests.append(location, prompt, answer)

    def _scan_texts(self, location: str, texts: Sequence[str]) -> bool:
        """Count the findings of a row's texts, each kind once; returns whether the texts need no repair."""
        excerpts: dict[str, str] = {}
        intact = True
        for text in texts:
            repaired, kinds = clean_text(text)
            excerpts |= {kind: text for kind in kinds if kind not in excerpts}
            if (match := LOST_CHARACTER.search(repaired)) and intact:
                intact = False
                self.findings["lost"].add(location, _excerpt(repaired, match))
            if (match := TYPED_SPECIAL_TOKEN.search(repaired)) and "inside" not in excerpts:
                excerpts["inside"] = _excerpt(repaired, match)
        inside = excerpts.pop("inside", None)
        if inside is not None:
            self.findings["inside"].add(location, inside)
        for kind, text in excerpts.items():
            self.findings[kind].add(location, text)
        return intact and not excerpts

    def _measure_all(self, samples: Sequence[Sample]) -> None:
        """Measure the samples of a row."""
        rows = [self._measure(sample) for sample in samples]
        if self._settings.limits is None:
            self._needed[0][-1] = max((row.needed_prompt for row in rows), default=0)
            self._needed[1][-1] = max((row.needed_answer for row in rows), default=0)

    def _measure(self, sample: Sample) -> EncodedRow:
        """Count a sample's tokens and check its answer; returns its row. Raises UserError if the template refuses it."""
        given = self._settings.limits is not None
        row = self._settings.encode(sample) if given else self._settings.measure(sample)
        self.prompt_lengths.add(row.needed_prompt)
        self.answer_lengths.add(row.needed_answer)
        if given:
            self._count_cut(sample, row)
        if row.labels[-1] != self._settings.template.end_id:
            self.findings["no_end_token"].add(sample.location, sample.answer)
        if ends_mid_sentence(sample.answer):
            self.findings["breaks_off"].add(sample.location, _ending(sample.answer))
        if repeats_itself(sample.answer):
            self.findings["loops"].add(sample.location, sample.answer)
        return row

    def _count_cut(self, sample: Sample, row: EncodedRow) -> None:
        """Count what the limits cut from a sample; `row` is what they leave."""
        if row.needed_prompt <= self.prompt_lengths.limit and row.needed_answer <= self.answer_lengths.limit:
            return
        self.prompt_lengths.lose(row.needed_prompt - row.scored.count(False))
        self.answer_lengths.lose(row.cut_answer_tokens)
        if row.cut_answer_tokens and not self._ends_a_sentence(row):
            self.findings["half"].add(
                sample.location, _ending(self._settings.tokenizer.decode(row.ids[-EXCERPT_CHARACTERS:])) if self._shows("half") else ""
            )

    def choose_limits(self) -> "list[DataScan]":
        """Choose the limits that are not given from the lengths of all rows, the held-out ones too; returns the scans whose rows they cut.

        Then all rows of these must be passed to `add_cut`, in the same order.
        """
        scans = [scan for scan in (self, self.held_out) if scan is not None and scan.samples]
        if self._settings.limits is not None or not scans:
            return []
        settings = self._settings.with_limits_for(self.limits_for(1 - SHARE))
        for scan in scans:
            scan._take_limits(settings)
        return [scan for scan in scans if scan.prompt_lengths.longer or scan.answer_lengths.longer]

    def _take_limits(self, settings: CheckSettings) -> None:
        limits = settings.limits
        assert limits is not None, "both are set now"
        self._settings = settings
        self.prompt_lengths.limit, self.answer_lengths.limit = limits.prompt, limits.answer
        self._again = zip(*self._needed, strict=True)

    def add_cut(self, location: str, value: object, shape: RowShape) -> None:
        """Count what the chosen limits cut from one row."""
        prompt, answer = next(self._again, (0, 0))
        if prompt > self.prompt_lengths.limit or answer > self.answer_lengths.limit:
            for sample in samples_from_row(value, shape, location, tools=self.supports_tools):
                self._count_cut(sample, self._settings.encode(sample))

    def limits_for(self, share: float) -> LengthLimits:
        """The smallest limits that cut at most this share of the rows, and of those held out."""
        own = LengthLimits(self.prompt_lengths.limit_for(share), self.answer_lengths.limit_for(share))
        return own if self.held_out is None else own.widest(self.held_out.limits_for(share))

    @property
    def needed(self) -> LengthLimits:
        """The limits that cut nothing."""
        return self.limits_for(0)

    @property
    def cuts(self) -> bool:
        """Whether the limits cut any of the rows, or of those held out."""
        own = bool(self.prompt_lengths.cut or self.answer_lengths.cut)
        return own or (self.held_out is not None and self.held_out.cuts)

    @property
    def max_length(self) -> int:
        """Length of the longest sequence that the model was trained on."""
        return self._settings.max_length(self.needed)

    def _ends_a_sentence(self, row: EncodedRow) -> bool:
        tokenizer = self._settings.tokenizer
        return SENTENCE_END.search("".join([tokenizer.token_text(token).replace("<n>", "\n") for token in row.ids[-4:]])) is not None

    def _shows(self, kind: str) -> bool:
        """Whether an example of this kind would still be shown."""
        return len(self.findings[kind].examples) < EXAMPLES


def _excerpt(text: str, match: re.Match[str]) -> str:
    start, end = max(match.start() - EXCERPT_CHARACTERS, 0), match.end() + EXCERPT_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _ending(text: str) -> str:
    return ("…" if len(text) > EXCERPT_CHARACTERS else "") + text[-EXCERPT_CHARACTERS:]
