"""Forgetting and report of a finished run: `imprint forgetting RUN`, `imprint report RUN`, and the end of `imprint train`.

Everything is read from the run folder, so that a run of an earlier version can be reviewed too.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imprint.config import read_overrides, recipe_text
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.evaluate.held_out import run_held_out
from imprint.evaluate.results_lock import results_lock
from imprint.evaluate.section import ForgettingCommandSection
from imprint.evaluate.training_rows import learned_rows
from imprint.events import Evaluation, WatchedAnswer, read_events
from imprint.files.atomic import write_json, write_jsonl
from imprint.files.typed_json import MAX_LINES, read_typed, read_typed_lines
from imprint.forgetting.fill_recall import FillRecall
from imprint.forgetting.measure import ModelPair, RunPrompts, adapter_pair, measure, model_pair
from imprint.forgetting.result import MEASURE_AGAIN, Forgetting, forgetting_messages, lost_rows, parse_forgetting
from imprint.forgetting.section import ForgettingSection
from imprint.loading.load import load_model, open_template
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError, join_lines
from imprint.model import Model
from imprint.report.next_steps import next_steps
from imprint.report.run_report import Example, ExampleKind, RunReport
from imprint.report.run_scores import read_scores
from imprint.report.runpage import write_report
from imprint.report.starts import local_time, read_starts
from imprint.runs import RunFolder
from imprint.runtime import is_out_of_memory
from imprint.terminal import say

VERDICT_ADVICE = Bilingual("Delete it: the report is written without its messages.", "请删除它：报告中将不含这些信息。")
NOTHING_TUNED = Bilingual("nothing was tuned. Give a run folder.", "没有微调结果，请给出训练结果目录。")
Say = Callable[[str], None]
FILLED_ROWS = 200
"""Maximum number of rows that are answered where a recipe fills placeholders: they show whether the model says the new texts."""
MAX_VERDICT_BYTES = 2**20
"""Largest file of the messages at the end of a run; a run writes a few kilobytes."""
MAX_EXAMPLES = MAX_LINES
MAX_CHARACTERS = 2**24
"""Most examples in a report, and most characters of all of them."""
MAX_EXAMPLE_BYTES = 2**26
"""Largest file of examples that is read."""
SHOWN_LOST = 5
"""Number of lost answers that are printed."""


@dataclass(frozen=True)
class BeforeAfterRow:
    """A row of the run's data with the answers of both models."""

    question: str
    """The prompt."""
    reference: str
    """The answer in the data."""
    base: str
    """Answer of the base."""
    tuned: str
    """Answer of the tuned model."""
    held_out: bool
    """Whether the row was held out of training."""


def forgetting_command(path: Path, overrides: Sequence[str]) -> None:
    """Measure a run, write forgetting.json and print lost answers. Raises UserError for a folder without a result."""
    given = read_overrides(overrides, ForgettingCommandSection)
    source = _run_source(path, given.base_path)
    defaults = source.require_run(NOTHING_TUNED).forgetting.model_dump()
    section = ForgettingCommandSection(**defaults).model_copy(update={name: getattr(given, name) for name in given.model_fields_set})
    forgetting = review(source, section, say)
    for row in lost_rows(forgetting.rows)[:SHOWN_LOST]:
        say(f"  lost / 丢失: {row.question}\n    before / 之前: {row.base}\n    after / 之后:  {row.tuned}")
    if RunFolder(path).report.exists():
        write_run_report(source)  # it would show old results otherwise
    say(f"written to {RunFolder(path).forgetting} / 已写入")


def report_command(path: Path) -> None:
    """Write report.html of a run; measures forgetting first if it has not been measured. Raises UserError as `forgetting_command`."""
    source = _run_source(path)
    section = source.require_run(NOTHING_TUNED).forgetting
    if section.measure and not RunFolder(path).forgetting.exists():
        review(source, section, say)
    write_run_report(source)
    say(f"open {RunFolder(path).report} / 请打开该文件")


def review_finished(path: Path, section: ForgettingSection, say: Say, *, report: bool) -> None:
    """Review a run at the end of training; a failure is printed and does not fail the run."""
    source = resolve_source(path)
    try:
        if section.measure:
            review(source, section, say)
    except (UserError, RuntimeError, MemoryError) as error:
        if not isinstance(error, UserError) and not is_out_of_memory(error):
            raise
        say(f"forgetting was not measured: {error}\n未能评估遗忘；解决后可运行 imprint forgetting {path}")
    if not report:
        return
    try:
        write_run_report(source)
    except UserError as error:
        say(f"the report was not written: {error}\n未能写出训练报告；解决后可运行 imprint report {path}")
    else:
        say(f"report / 训练报告: {RunFolder(path).report}")


def refresh_report(source: ModelSource) -> None:
    """Write the report again, if there is one, after something of the run was measured; a failure is printed, what was measured stays."""
    if source.kind != "run" or not source.run_folder.report.is_file():
        return
    try:
        write_run_report(source)
    except UserError as error:
        say(f"the report was not written: {error}\n未能写出训练报告；解决后可运行 imprint report {source.path}")


def write_run_report(source: ModelSource) -> None:
    """Write report.html from what is in the run folder."""
    run, folder = source.require_run(NOTHING_TUNED), source.run_folder
    forgetting, rows = read_review(folder)
    examples, kind = _examples(folder, rows)
    verdict = read_typed(folder.verdict, list[tuple[str, str]], VERDICT_ADVICE, limit=MAX_VERDICT_BYTES) if folder.verdict.is_file() else []
    events, data = read_events(folder), run.data
    dev = None if data.dev is None else str(data.dev)
    held_out = any(isinstance(event, Evaluation) for event in events)
    report = RunReport(
        title=RunFolder(source.path).title,
        base_name=run.model.path,
        method=source.method or "-",
        verdict=tuple(Bilingual(english, chinese) for english, chinese in verdict),
        events=events,
        examples=examples,
        example_kind=kind,
        fill_texts=tuple(run.data_section.fill.values()),
        forgetting=forgetting,
        recipe=recipe_text(folder.config),
        mixed=run.data_section.mix_general is not None,
        scores=tuple(read_scores(folder)),
        starts=tuple(read_starts(folder)),
        next_steps=tuple(next_steps(str(folder.path), dev, data.kind, held_out=held_out)),
        path=str(folder.path),
        logged=local_time(folder.log.stat().st_mtime) if folder.log.is_file() else "",
    )
    write_report(report, folder.report)


def _examples(folder: RunFolder, rows: Sequence[BeforeAfterRow]) -> tuple[tuple[Example, ...], ExampleKind]:
    """Rows with both answers; if there are none, the first and the last answer to each watched prompt."""
    if rows:
        kind: ExampleKind = "held-out" if rows[0].held_out else "learned"
        return _shown([Example(row.question, row.reference, row.base, row.tuned) for row in rows], folder.before_after), kind
    answers: dict[str, list[str]] = {}
    for event in read_events(folder):
        if isinstance(event, WatchedAnswer):
            answers.setdefault(event.prompt, []).append(event.answer)
    return _shown([Example(prompt, "", texts[0], texts[-1]) for prompt, texts in answers.items()], folder.log), "watched"


def _shown(examples: Sequence[Example], file: Path) -> tuple[Example, ...]:
    """The examples of a file; UserError for more than fit on a page that a browser opens."""
    characters = sum(len(row.prompt) + len(row.label) + len(row.base) + len(row.tuned) for row in examples)
    if len(examples) <= MAX_EXAMPLES and characters <= MAX_CHARACTERS:
        return tuple(examples)
    raise UserError(
        Bilingual(
            f"{file}: {len(examples):,} examples of {characters:,} characters are too many for one page, which holds {MAX_EXAMPLES:,} of "
            f"{MAX_CHARACTERS:,} at most. Delete some lines, or measure again with a smaller forgetting.shown_rows.",
            f"{file}：{len(examples):,} 个示例共 {characters:,} 个字符，超过一页的上限（{MAX_EXAMPLES:,} 个、{MAX_CHARACTERS:,} 个字符）："
            "请删去一些行，或减小 forgetting.shown_rows 后重新评估。",
        )
    )


def review(source: ModelSource, section: ForgettingSection, say: Say) -> Forgetting:
    """Measure forgetting with base and tuned model, write forgetting.json and before-after.jsonl, and print a summary."""
    run, folder = source.require_run(NOTHING_TUNED), source.run_folder
    samples, held_out, note = run_samples(run, folder, section, tools=open_template(source).supports_tools)
    if note is not None:
        say(str(note))
    run_prompts = RunPrompts(samples, run.max_source_length, run.max_target_length)
    with results_lock(folder.path):  # figures and examples are of one measurement
        return _measured(source, section, run_prompts, say, held_out=held_out)


def _measured(source: ModelSource, section: ForgettingSection, run_prompts: RunPrompts, say: Say, *, held_out: bool) -> Forgetting:
    run, folder, samples = source.require_run(NOTHING_TUNED), source.run_folder, run_prompts.samples
    forgetting, answers = measure(_base_and_tuned(source, section), section, run_prompts)
    rows = [
        BeforeAfterRow(sample.query, sample.answer, base, tuned, held_out) for sample, (base, tuned) in zip(samples, answers, strict=True)
    ]
    write_jsonl(folder.before_after, map(asdict, rows))
    write_json(folder.forgetting, forgetting.as_json())
    filled = FillRecall.count([(row.reference, row.base, row.tuned) for row in rows], tuple(run.data_section.fill.values()))
    messages = forgetting_messages(forgetting, mixed=run.data_section.mix_general is not None)
    for message in [*([filled.message()] if filled else []), *messages]:
        say(str(message))
    return forgetting


def read_review(folder: RunFolder) -> tuple[Forgetting | None, list[BeforeAfterRow]]:
    """What `review` wrote; None and no rows if it has not run yet."""
    if not folder.forgetting.is_file():
        return None, []
    values = read_typed(folder.forgetting, dict[str, Any], MEASURE_AGAIN)
    forgetting = parse_forgetting(values, str(folder.forgetting))
    return forgetting, read_typed_lines(folder.before_after, BeforeAfterRow, MEASURE_AGAIN, limit=MAX_EXAMPLE_BYTES)


def run_samples(
    run: RunConfig, folder: RunFolder, section: ForgettingSection, *, tools: bool = False
) -> tuple[list[Sample], bool, Bilingual | None]:
    """Rows of the run's data to answer, whether they were held out, and what to say of them.

    The rows are the first training rows if there are no held-out rows, and none if the files cannot be read any more: forgetting can be
    measured without them. `tools`: whether the template supports tools.
    """
    if not isinstance(run.data, DataSection):  # raw text has no prompts
        return [], False, None
    count = max(FILLED_ROWS, section.shown_rows) if run.data.fill else section.shown_rows
    try:
        held_out, note = run_held_out(folder, run.data, tools=tools)
        if held_out:
            return held_out[:count], True, note
        learned = learned_rows(folder, run.data, tools=tools)
        return learned.samples[:count], False, learned.note
    except UserError as error:
        without = Bilingual("No rows of the run are shown before and after.", "因此不展示该训练数据的前后对比。")
        return [], False, join_lines([error.message, without])


def _base_and_tuned(source: ModelSource, section: ForgettingSection) -> ModelPair:
    """Base and tuned model; two networks only where all parameters were tuned."""
    precision = section if isinstance(section, ForgettingCommandSection) else ForgettingCommandSection()

    def load(*, base: bool = False) -> Model:
        return load_model(
            source,
            base=base,
            quantize=precision.quantize,
            quantize_head=precision.quantize_head,
            embedding_on_host=precision.embedding_on_host,
            dtype=precision.dtype,
            device=precision.device,
            kernels=precision.kernels,
            template=precision.template,
        )

    if source.method != "full":
        return adapter_pair(load())
    return model_pair(str(source.base_folder), lambda: load(base=True), load)


def _run_source(path: Path, base_path: str | None = None) -> ModelSource:
    source = resolve_source(path, base_path)
    source.refuse_bundle()
    source.require_run(NOTHING_TUNED)
    return source
