"""`imprint evaluate`: generate answers to rows and score them."""

from collections.abc import Sequence
from pathlib import Path

from imprint.config import read_overrides
from imprint.data.placeholders import fill_placeholders
from imprint.data.readers.samples import read_samples
from imprint.data.readers.sources import parse_source
from imprint.data.sample import Sample
from imprint.evaluate.answering import Answers, answer_all
from imprint.evaluate.held_out import HELD_OUT, held_out_rows, require_run_folder, say_note, say_warnings, training_rows_warning
from imprint.evaluate.learned_before import learned_before_warnings
from imprint.evaluate.results_lock import results_lock
from imprint.evaluate.review import refresh_report
from imprint.evaluate.scores_file import baseline_of, score_lines, write_scores
from imprint.evaluate.section import EvaluateSection, resolve
from imprint.evaluate.training_rows import load_training_rows
from imprint.evaluate.unused_knobs import refuse_unread_columns, refuse_unused_decoding
from imprint.files.disk_errors import refuse_unwritable
from imprint.inference.step_graphs import captures_summary
from imprint.loading.load import load_with, open_template
from imprint.loading.source import ModelSource, resolve_source
from imprint.terminal import say


def evaluate_command(path: str | Path, *, data: Path | None, limit: int | None, overrides: Sequence[str]) -> Answers:
    """Answer and score the rows of `data` with a run, a bundle or a model folder; without `data` the held-out rows of a run."""
    section = read_overrides(overrides, EvaluateSection)
    refuse_unread_columns(section, "held-out rows" if data is None else "rows")
    if section.output is not None:
        refuse_unwritable(section.output)  # before a model of the hub is downloaded
    given, source = frozenset(section.model_fields_set), resolve_source(path, section.base_path)
    section = resolve(section, source.run)
    tools = open_template(source, section.template).supports_tools
    if data is None:
        rows = held_out_rows(source, require_run_folder(source), limit, tools=tools)
        samples, origin, name = rows.samples, rows.source, HELD_OUT
        say_note(rows.note)
    else:
        samples, origin, name = read_data(section, data, limit, tools=tools), str(data), name_of(data)
    refuse_unused_decoding(section, given, samples)
    output = section.output or answers_folder(source, section, name, limit)
    with results_lock(output):
        model = load_with(source, section)
        answers = answer_all(model, samples, section, output)
        training = load_training_rows(source, tools=tools)
        baseline = baseline_of(training.samples, samples, section)
        report = write_scores(answers, answers.section, origin, output, training=training, baseline=baseline)
    say_note(training.note)
    own = [] if data is None or section.base else [training_rows_warning(samples, training.samples)]
    say_warnings([*own, *learned_before_warnings(source, samples, adapter=section.adapter, base=section.base, tools=tools)])
    for line in score_lines(report, output):
        say(line)
    if (made := captures_summary(model.network)) is not None:
        say(made.line)
    refresh_report(source)
    return answers


def read_data(section: EvaluateSection, data: Path, limit: int | None, *, tools: bool = False) -> list[Sample]:
    """The rows to answer. `tools`: whether the template supports tools."""
    assert section.prompt_column is not None, "resolve() fills in null knobs"
    assert section.response_column is not None
    samples = read_samples(
        data,
        prompt_column=section.prompt_column,
        response_column=section.response_column,
        history_column=section.history_column,
        limit=limit,
        tools=tools,
    )
    return fill_placeholders(samples, section.fill) if section.fill else samples


def name_of(data: Path) -> str:
    """Name of the answers folder for a data file or folder; a random sample of its rows gets a name of its own."""
    source = parse_source(data)
    return source.path.stem + (f"-drawn-{source.count}" if source.count else "")


def answers_folder(source: ModelSource, section: EvaluateSection, name: str, limit: int | None) -> Path:
    """Folder of the answers: in the run folder, else in `evaluations/`; one for each selection of rows and weights."""
    parent = source.run_folder.evaluations if source.kind == "run" else source.output_folder
    first = f"-first-{limit}" if limit else ""
    base, adapter = "-base" if section.base else "", f"-{section.adapter.name}" if section.adapter else ""
    return parent / (name + first + base + adapter)
