"""What a finished run has changed: `imprint forgetting RUN`, and the end of `imprint train`.

Everything is read from the run folder, so an old run is looked at as a new one is.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from imprint.config import read_overrides
from imprint.data.dataset import DataSection, load_held_out, load_samples
from imprint.data.sample import Sample
from imprint.errors import UserError
from imprint.files import find_folder, read_lines, write_json, write_text
from imprint.forgetting.measure import Own, Pair, measure, pair_apart, pair_of
from imprint.forgetting.probes import holds
from imprint.forgetting.score import Forgetting, forgetting_from, lost, told
from imprint.forgetting.section import ForgettingSection
from imprint.model import base_folder
from imprint.runs import RunFolder
from imprint.runtime import out_of_memory
from imprint.trained import Trained, open_model, read_run

Say = Callable[[str], None]
FILLED_ROWS = 200
"""Most rows that are asked where a recipe fills placeholders: they show whether the new texts are said."""
SHOWN_LOST = 5
"""How many lost answers a command shows."""


@dataclass(frozen=True)
class OwnRow:
    """A row of the run's own data with both answers."""

    question: str
    """What was asked."""
    reference: str
    """What the data says."""
    base: str
    """What the base answers."""
    tuned: str
    """What the tuned model answers."""
    held_out: bool
    """Whether it was never learned from."""


@dataclass(frozen=True)
class Filled:
    """How many answers hold the texts of `data.fill` that their references hold."""

    rows: int
    """Rows whose references hold any."""
    before: int
    """How many answers of the base hold them all."""
    after: int
    """The same of the tuned model."""

    @classmethod
    def of(cls, rows: Sequence[OwnRow], texts: Sequence[str]) -> "Filled | None":
        """Count over rows; None where no reference holds any of the texts."""
        wanted = [(row, [text for text in texts if holds(row.reference, text)]) for row in rows]
        asked = [(row, needed) for row, needed in wanted if needed]
        if not asked:
            return None
        before, after = (
            sum(all(holds(answer, text) for text in needed) for answer, needed in answers)
            for answers in ([(row.base, needed) for row, needed in asked], [(row.tuned, needed) for row, needed in asked])
        )
        return cls(len(asked), before, after)

    def sentence(self) -> str:
        """For a person, in two languages."""
        return (
            f"new texts: {self.after} of {self.rows} rows are answered with what data.fill says, before {self.before}\n"
            f"新内容：{self.rows} 行中有 {self.after} 行的回答含有 data.fill 的内容，微调前 {self.before} 行"
        )


def forgetting_command(path: Path, overrides: Sequence[str]) -> None:
    """Measure a run, write forgetting.json and say what was lost. Raises UserError for a folder without a finished run."""
    run = read_run(path)
    if run is None:
        raise UserError(f"{path}: is a model folder, and nothing was tuned there. Give a run folder.")
    given = read_overrides(overrides, ForgettingSection)
    section = run.forgetting.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})
    found = review(path, run, section, _print)
    for row in lost(found.rows)[:SHOWN_LOST]:
        _print(f"  lost / 丢失: {row.question}\n    before / 之前: {row.base}\n    after / 之后:  {row.tuned}")
    _print(f"written to {RunFolder(path).forgetting} / 已写入")


def review_finished(path: Path, section: ForgettingSection, say: Say) -> None:
    """The end of a training run: what cannot be measured is told and spoils nothing."""
    if not section.measure:
        return
    run = read_run(path)
    assert run is not None, "a run that was trained has its recipe"
    try:
        review(path, run, section, say)
    except (UserError, RuntimeError, MemoryError) as error:
        if not isinstance(error, UserError) and not out_of_memory(error):
            raise
        say(f"forgetting was not measured: {error}\n未能评估遗忘；解决后可运行 imprint forgetting {path}")


def review(path: Path, run: Trained, section: ForgettingSection, say: Say) -> Forgetting:
    """Ask base and tuned model the same, write both files of it, and say what came of it."""
    samples, held_out = own_samples(run, section)
    own = Own(samples, run.data.max_source_length, run.data.max_target_length)
    found, answers = measure(_pair(path, run), section, own)
    home = RunFolder(path)
    rows = [OwnRow(sample.query, sample.answer, base, tuned, held_out) for sample, (base, tuned) in zip(samples, answers, strict=True)]
    write_text(home.before_after, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
    write_json(home.forgetting, found.as_json())
    filled = Filled.of(rows, tuple(run.rows.fill.values()))
    for line in [*([filled.sentence()] if filled else []), *told(found)]:
        say(line)
    return found


def read_review(home: RunFolder) -> tuple[Forgetting | None, list[OwnRow]]:
    """What `review` wrote; None and no rows where it has not looked yet."""
    try:
        values = json.loads(home.forgetting.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, []
    except ValueError as error:
        raise UserError(f"{home.forgetting}: is no JSON ({error}). Delete it, and measure again with `imprint forgetting`.") from error
    return forgetting_from(values, str(home.forgetting)), [OwnRow(**line) for line in read_lines(home.before_after)]


def own_samples(run: Trained, section: ForgettingSection) -> tuple[list[Sample], bool]:
    """Rows of the run's own data to ask, and whether they were held out: where none were, the first that it learned from."""
    if not isinstance(run.data, DataSection):  # raw text asks nothing
        return [], False
    count = max(FILLED_ROWS, section.shown_rows) if run.data.fill else section.shown_rows
    try:
        held_out = load_held_out(run.data)
        return (held_out or load_samples(run.data)[0])[:count], bool(held_out)
    except UserError:  # the files of an old run are gone: what it has forgotten can be measured all the same
        return [], False


def _pair(path: Path, run: Trained) -> Pair:
    if find_folder(RunFolder(path).model) is None:
        return pair_of(open_model(path, run))
    folder = base_folder(run.model.path)
    return pair_apart(str(folder), lambda: open_model(path, run, base=True), lambda: open_model(path, run))


def _print(line: str) -> None:
    print(line)  # noqa: T201
