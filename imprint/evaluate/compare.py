"""`imprint compare RUN`: the same prompts through the base and the tuned model, side by side on one page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imprint.config import read_overrides
from imprint.data.readers.questions import read_questions
from imprint.data.sample import Sample
from imprint.evaluate.answering import Answers, answer_all
from imprint.evaluate.command import answers_folder, name_of, read_data
from imprint.evaluate.held_out import HELD_OUT, held_out_rows, say_note, say_warnings, training_rows_warning
from imprint.evaluate.learned_before import learned_before_warnings
from imprint.evaluate.results_lock import results_lock
from imprint.evaluate.review import refresh_report
from imprint.evaluate.scores_file import CONFUSION, baseline_of, draw_confusions, references_note, write_scores
from imprint.evaluate.section import EvaluateSection, decoding, reference_limit, resolve
from imprint.evaluate.training_rows import load_training_rows
from imprint.evaluate.unused_knobs import refuse_unread_columns, refuse_unused_decoding
from imprint.loading.load import load_with, open_template
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.metrics.baseline import BASELINE
from imprint.metrics.task_scores import TaskScores, task_gains
from imprint.report.comparison import ComparedRow, Comparison, count_messages, rate_lines, shown_message, tuned_warnings, win_counts
from imprint.report.markdown import write_markdown
from imprint.report.page import write_html
from imprint.runs import RunFolder
from imprint.task import ClassificationTask
from imprint.terminal import say

RAW_TEXT = Bilingual(
    "was trained on raw text, which has no questions. Give rows with --data or questions with --prompts; "
    "`imprint perplexity` measures texts.",
    "该结果是在纯文本上训练的，没有问题可问：请用 --data 或 --prompts 给出问题；文本用 imprint perplexity 评估。",
)
NOTHING_TO_COMPARE = Bilingual("there is nothing to compare it with. Give a run folder.", "没有可对照的微调结果，请给出训练结果目录。")


def compare(
    path: Path, *, data: Path | None = None, prompts: Path | None = None, limit: int | None = None, overrides: Sequence[str] = ()
) -> Path:
    """Write compare.md and compare.html into a run folder; returns the page.

    Without `data` the run's held-out rows are compared. All rows are counted, the first hundred are shown. `prompts` are questions without
    references: nothing is scored, and compare-NAME.html stands beside the comparison of the held-out rows.
    """
    section = read_overrides(overrides, EvaluateSection)
    source = resolve_source(path, section.base_path)
    run = source.require_run(NOTHING_TO_COMPARE)
    if data is not None and prompts is not None:
        raise UserError(
            Bilingual(
                "--data and --prompts: give only one. --data answers rows and scores them, --prompts only answers questions.",
                "--data 与 --prompts 只能给一个：前者回答并打分，后者只提问。",
            )
        )
    source.require_result()  # raises before the base is loaded
    refuse_unread_columns(section, "questions" if prompts is not None else "held-out rows" if data is None else "rows")
    given_knobs = frozenset(section.model_fields_set)
    section = resolve(section, run)
    _refuse_own_knobs(section)
    tools = open_template(source, section.template).supports_tools
    compared = _read_prompts(source, run, section, data, prompts, limit, tools=tools)
    refuse_unused_decoding(section, given_knobs, compared.samples)
    training = load_training_rows(source, tools=tools)
    baseline = baseline_of(training.samples, compared.samples, section)

    def evaluate_side(*, base: bool) -> Answers:
        side = section.model_copy(update={"base": base})
        output = answers_folder(source, side, compared.name, limit)
        with results_lock(output):
            model = load_with(source, side)
            answers = answer_all(model, compared.samples, side, output)
            write_scores(answers, answers.section, compared.source, output, training=training, baseline=baseline)
        return answers

    before, after = evaluate_side(base=True), evaluate_side(base=False)
    page = RunFolder(source.output_folder).comparison.with_name(f"{compared.page}.html")
    comparison = _comparison(path, run, after.section, compared, before, after, baseline)
    if before.scored and isinstance(section.task, ClassificationTask):
        picture = page.with_name(f"{compared.page}-{CONFUSION}")
        draw_confusions({"base": before.scores, "tuned": after.scores, BASELINE: baseline}, section.task, picture)
        comparison = replace(comparison, picture=picture)
    write_markdown(comparison, page.with_name(f"{compared.page}.md"))
    write_html(comparison, page)
    say_note(training.note)
    own = [] if data is None else [training_rows_warning(compared.samples, training.samples)]
    say_warnings([*own, *learned_before_warnings(source, compared.samples, adapter=None, base=False, tools=tools)])
    for line in _summary_lines(comparison, before, after):
        say(line)
    count, kind = len(compared.samples), Bilingual("rows", "行数据") if before.scored else Bilingual("questions", "个问题")
    say(Bilingual(f"{count} {kind.english} compared; open {page}", f"已对照 {count} {kind.chinese}，请打开该文件").line)
    refresh_report(source)
    return page


def _refuse_own_knobs(section: EvaluateSection) -> None:
    if given := [name for name in ("base", "adapter", "output") if getattr(section, name)]:
        raise UserError(
            Bilingual(
                f"{given[0]}: is set by the comparison itself: base and tuned model, into the run folder. Leave it out.",
                f"{given[0]}：该选项由对照本身决定（底座与微调结果，写入结果目录）：请去掉。",
            )
        )


@dataclass(frozen=True)
class _ComparedPrompts:
    """The prompts that both models answer."""

    samples: list[Sample]
    """Rows, with or without references."""
    source: str
    """Where they are from: a file, or the held-out rows of one."""
    name: str
    """Name of the answers folders."""
    page: str
    """Name of the pages, without suffix."""


def _read_prompts(
    source: ModelSource,
    run: RunConfig,
    section: EvaluateSection,
    data: Path | None,
    prompts: Path | None,
    limit: int | None,
    *,
    tools: bool,
) -> _ComparedPrompts:
    page = source.run_folder.comparison.name
    if prompts is not None:
        assert section.prompt_column is not None, "resolve() fills in null knobs"
        questions = read_questions(prompts, prompt_column=section.prompt_column, limit=limit)
        return _ComparedPrompts(questions, str(prompts), f"prompts-{name_of(prompts)}", f"{page}-{name_of(prompts)}")
    if data is not None:
        return _ComparedPrompts(read_data(section, data, limit, tools=tools), str(data), name_of(data), page)
    rows = held_out_rows(source, run, limit, tools=tools, raw_text=RAW_TEXT)
    say_note(rows.note)
    return _ComparedPrompts(rows.samples, rows.source, HELD_OUT, page)


def _comparison(
    path: Path,
    run: RunConfig,
    section: EvaluateSection,
    compared: _ComparedPrompts,
    before: Answers,
    after: Answers,
    baseline: TaskScores | None,
) -> Comparison:
    rows = [
        ComparedRow(sample.query, reference, old, new, old_scores, new_scores, after.scores.row_metric)
        for sample, reference, old, new, old_scores, new_scores in zip(
            compared.samples,
            before.references,
            before.predictions,
            after.predictions,
            before.scores.row_scores,
            after.scores.row_scores,
            strict=True,
        )
    ]
    settings = {"data": compared.source, "decoding": decoding(section), "seed": str(section.seed)}
    if before.scored:
        settings["references"] = references_note(reference_limit(section)).removeprefix("references ")
        if isinstance(section.task, ClassificationTask):
            settings["labels"] = ", ".join(f"{number} {label}" for number, label in enumerate(section.task.labels, start=1))
    else:
        settings["questions"] = f"{len(rows):,}"
    return Comparison(
        title=RunFolder(path).title,
        base_name=str(run.model.path),
        tuned_name=RunFolder(path).title,
        rows=tuple(rows),
        base_summary=before.summary if before.scored else None,
        tuned_summary=after.summary if before.scored else None,
        base_rates=before.rates,
        tuned_rates=after.rates,
        settings=settings,
        gains=task_gains(before.scores, after.scores) if before.scored else {},
        baseline=baseline.summary if baseline is not None else None,
        fill_texts=tuple((section.fill or {}).values()),
    )


def _summary_lines(comparison: Comparison, before: Answers, after: Answers) -> Iterator[str]:
    """The printed summary: warnings about the tuned model, means where there are references, and rates of both models."""
    for warning in tuned_warnings(comparison):
        yield f"warning: {warning.english}"
        yield f"警告：{warning.chinese}"
    if before.scored:
        yield f"protocol {before.summary.protocol}, references {comparison.settings['references']}"
        for metric, old in before.summary.means.items():
            yield f"{metric:22}{old.value:7.2f} -> {after.summary.means[metric].value:6.2f}"
        for metric, mean in comparison.baseline.means.items() if comparison.baseline else ():
            yield f"{metric:22}{mean.value:7.2f}    {BASELINE}"
    for line in rate_lines(comparison):
        if line.base is not None and line.tuned is not None:
            yield f"{line.name.english:22}{line.base:7.1%} -> {line.tuned:6.1%}"
    counts = [*(wins.message() for wins in win_counts(comparison.rows)), *count_messages(comparison), shown_message(comparison)]
    for message in counts:
        if message is not None:
            yield message.line
