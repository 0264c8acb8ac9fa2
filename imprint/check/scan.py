"""One pass over all rows in almost constant memory: counts, first locations and hashes."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from imprint.check.duplicates import Digests
from imprint.check.findings import EXAMPLES, FindingTally
from imprint.check.lengths import Lengths
from imprint.check.repair import RepairedRow, repair_row, sample_texts
from imprint.check.settings import CheckSettings
from imprint.check.text_checks import LOST_CHARACTER, TYPED_SPECIAL_TOKEN, clean_text, ends_mid_sentence, language, repeats_itself
from imprint.data.encode import EncodedRow
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.sample import Sample
from imprint.data.shapes import RowShape, samples_from_row
from imprint.messages import UserError
from imprint.pack import IGNORE_INDEX

SENTENCE_END: Final = re.compile(r"[。！？!?.…；;~～\n]\W*$")
REASON_END: Final = re.compile(r", got |, in \"|; the columns are")
"""Start of the part of a reason that differs from row to row."""
EMPTY_REASON: Final = "must not be empty"
"""Part of the reason of a row without a question or an answer."""
MAX_REASONS: Final = 50
EXCERPT_CHARACTERS: Final = 24
"""Characters around a match."""


class DataScan:
    """Counts over the rows scanned so far. `measured`: whether tokens and languages are counted too."""

    def __init__(self, settings: CheckSettings, *, measured: bool = True) -> None:
        self.rows = 0
        """Number of rows, bad ones included."""
        self.samples = 0
        """Number of samples."""
        self.bad_rows = 0
        """Number of rows that cannot be read."""
        self.bad_reasons: Counter[str] = Counter()
        """Reason of bad rows -> count."""
        self.empty_reasons: Counter[str] = Counter()
        """The same for rows without a question or an answer."""
        self.prompt_lengths = Lengths(settings.max_source_length)
        self.answer_lengths = Lengths(settings.max_target_length)
        self.shape_kinds: set[str] = set()
        """The kinds of shapes among the rows."""
        self.languages: Counter[str] = Counter()
        self.findings: defaultdict[str, FindingTally] = defaultdict(FindingTally)
        """Kind of finding -> count and examples."""
        self.digests = Digests()
        """Hashes of the rows that can be read or repaired, in order."""
        self.supports_tools = settings.template.supports_tools
        """Whether the model's template supports tools."""
        self._settings = settings
        self._measured = measured

    def add(self, location: str, value: object, shape: RowShape) -> BadRowError | None:
        """Scan one row; returns the error if it cannot be read."""
        self.rows += 1
        self.shape_kinds.add(shape.kind)
        try:
            samples = samples_from_row(value, shape, location, tools=self.supports_tools)
            for sample in samples if self._measured else ():
                self._measure(sample)
        except (BadRowError, UserError) as error:
            problem = error if isinstance(error, BadRowError) else BadRowError(str(error))
            self.bad_rows += 1
            self._count_reason(str(problem))
            self._remember_repaired(location, repair_row(value, shape, location, tools=self.supports_tools))
            return problem
        self.samples += len(samples)
        if not samples:
            self.findings["nothing"].add(location, "")
            return None
        texts = list(sample_texts(samples[-1]))
        if self._scan_texts(location, texts):
            self._remember(location, texts)
        else:
            self._remember_repaired(location, repair_row(value, shape, location, tools=self.supports_tools))
        if self._measured:
            self.languages[language("\n".join(texts))] += 1
        return None

    def _count_reason(self, problem: str) -> None:
        """Count a bad row by its reason; empty texts are counted apart."""
        reasons = self.empty_reasons if EMPTY_REASON in problem else self.bad_reasons
        reason = re.sub(r"(?<=turn |lumn )\d+", "…", REASON_END.split(problem)[0])
        reasons[reason if reason in reasons or len(reasons) < MAX_REASONS else "others"] += 1

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

    def _measure(self, sample: Sample) -> None:
        """Count a sample's tokens before and after truncation, and check its answer. Raises UserError if the template refuses it."""
        row = self._settings.encode_untruncated(sample)
        source, target = _prompt_and_answer_lengths(row)
        if source > self.prompt_lengths.limit or target > self.answer_lengths.limit:
            row = self._settings.encode(sample)
        kept_source, kept_target = _prompt_and_answer_lengths(row)
        self.prompt_lengths.add(source, kept_source)
        self.answer_lengths.add(target, kept_target)
        if row.labels[-1] != self._settings.template.end_id:
            self.findings["unended"].add(sample.location, sample.answer)
        if kept_target < target and not self._ends_a_sentence(row):
            self.findings["half"].add(
                sample.location, _ending(self._settings.tokenizer.decode(row.ids[-EXCERPT_CHARACTERS:])) if self._shows("half") else ""
            )
        if ends_mid_sentence(sample.answer):
            self.findings["breaks_off"].add(sample.location, _ending(sample.answer))
        if repeats_itself(sample.answer):
            self.findings["loops"].add(sample.location, sample.answer)

    def _ends_a_sentence(self, row: EncodedRow) -> bool:
        tokenizer = self._settings.tokenizer
        return SENTENCE_END.search("".join([tokenizer.token_text(token).replace("<n>", "\n") for token in row.ids[-4:]])) is not None

    def _shows(self, kind: str) -> bool:
        """Whether an example of this kind would still be shown."""
        return len(self.findings[kind].examples) < EXAMPLES


def _prompt_and_answer_lengths(row: EncodedRow) -> tuple[int, int]:
    """(number of ids that are not scored, number of scored ids) of a row."""
    read = row.labels.count(IGNORE_INDEX)
    return read, len(row.labels) - read


def _excerpt(text: str, match: re.Match[str]) -> str:
    start, end = max(match.start() - EXCERPT_CHARACTERS, 0), match.end() + EXCERPT_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _ending(text: str) -> str:
    return ("…" if len(text) > EXCERPT_CHARACTERS else "") + text[-EXCERPT_CHARACTERS:]
