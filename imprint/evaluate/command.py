"""The command: what is asked, of which model, and where the answers go."""

from collections.abc import Sequence
from pathlib import Path

from imprint.config import read_overrides
from imprint.data.formats import read_samples
from imprint.data.placeholders import fill
from imprint.data.sample import Sample
from imprint.data.sources import find_source
from imprint.evaluate.answering import Answers, answer_all
from imprint.evaluate.scores import baseline_of, learned_samples, told, write_scores
from imprint.evaluate.section import EvaluateSection, resolve
from imprint.loading.load import load_run, open_template
from imprint.loading.run import RunConfig, read_run, with_base_path
from imprint.model import Model
from imprint.runs import RunFolder


def evaluate_command(path: Path, *, data: Path, limit: int | None, overrides: Sequence[str]) -> Answers:
    """Answer and score the rows of `data` with a run or a model folder."""
    section = read_overrides(overrides, EvaluateSection)
    run = read_run(path)
    section = resolve(section, run)
    tools = open_template(path, with_base_path(run, section.base_path), section.template).tools
    samples = read_data(section, data, limit, tools=tools)
    output = section.output or answers_folder(path, run, section, name_of(data), limit)
    answers = answer_all(load_evaluated(path, run, section), samples, section, output)
    learned = learned_samples(run, tools=tools)
    beside = baseline_of(learned, samples, section)
    report = write_scores(answers, section, data, output, learned=learned, beside=beside)
    for line in told(report, output):
        print(line)  # noqa: T201
    return answers


def load_evaluated(path: Path, run: RunConfig | None, section: EvaluateSection) -> Model:
    """The model that a section asks for."""
    run = with_base_path(run, section.base_path)
    return load_run(
        path,
        run,
        base=section.base,
        adapter=section.adapter,
        quantize=section.quantize,
        dtype=section.dtype,
        device=section.device,
        template=section.template,
    )


def read_data(section: EvaluateSection, data: Path, limit: int | None, *, tools: bool = False) -> list[Sample]:
    """The rows to answer; `tools` says whether the template writes tools."""
    assert section.prompt_column is not None, "resolve() fills what was left open"
    assert section.response_column is not None
    samples = read_samples(
        data,
        prompt_column=section.prompt_column,
        response_column=section.response_column,
        history_column=section.history_column,
        limit=limit,
        tools=tools,
    )
    return fill(samples, section.fill) if section.fill else samples


def name_of(data: Path) -> str:
    """What the answers to a file or folder of rows are called; so many rows drawn from it are not the whole of it."""
    source = find_source(data)
    return source.path.stem + (f"-drawn-{source.count}" if source.count else "")


def answers_folder(path: Path, run: RunConfig | None, section: EvaluateSection, name: str, limit: int | None) -> Path:
    """Where answers go: into the run folder, or for a model folder beside the command; other rows and other models go elsewhere."""
    home = RunFolder(path).evaluations if run is not None else Path("evaluations") / path.name
    first = f"-first-{limit}" if limit else ""
    model = "-base" if section.base else f"-{section.adapter.name}" if section.adapter else ""
    return home / (name + first + model)
