"""`imprint evaluate RUN|MODEL --data FILE`: answers written as they come, then scores under a named protocol."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from imprint.config import Field, Section, read_overrides
from imprint.data.batch import NOT_SCORED, sorted_by_length
from imprint.data.dataset import DataSection, load_samples
from imprint.data.encode import encode_sample, fit_prompt
from imprint.data.formats import read_samples
from imprint.data.original import encode_evaluation_original
from imprint.data.placeholders import fill
from imprint.data.sample import Sample
from imprint.data.sources import find_source
from imprint.data.templates import TEMPLATE_HELP, TemplateName
from imprint.errors import UserError
from imprint.files import append_line, read_lines, write_json, write_text
from imprint.generate import NotFiniteError, Sampling, generate
from imprint.likelihood import choose, likelihoods
from imprint.metrics import (
    BASELINE,
    COUNTED,
    PROTOCOLS,
    Judged,
    Likelihood,
    ProtocolName,
    Rates,
    Summary,
    baseline_predictions,
    copied_share,
    judge,
    rates_of,
    warnings_of,
)
from imprint.model import Model
from imprint.progress import Progress
from imprint.runs import RunFolder
from imprint.task import ClassificationTask, ContinuationTask, TaskSection, TextTask
from imprint.trained import Trained, moved, open_model, open_template, read_run


class EvaluateSection(Section):
    """How answers are made and scored; null takes what the run was trained with."""

    base: bool = Field(False, description="Evaluate the untouched base of a run instead of what was tuned.")
    adapter: Path | None = Field(None, description="An adapter to put on a model folder: ours, or an original prefix file.")
    batch_size: int = Field(64, ge=1, description="Prompts answered at once.")
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens of an answer; null takes data.max_target_length, or the original's bound on prompt and answer together.",
    )
    temperature: float = Field(0.0, ge=0, description="0 answers greedily; the original samples at 0.95.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the most probable tokens of this joint probability; the original's is 0.7."
    )
    num_beams: int = Field(1, ge=1, description="More than one searches beams instead.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of sampling.")
    task: TaskSection | None = Field(None, description="What kind of answers are scored, as in a recipe; null takes the run's, else text.")
    protocol: ProtocolName = Field("chatglm-6b", description="How ROUGE and BLEU-4 are counted; docs/metrics.md says what each counts.")
    truncation: Literal["oldest_first", "original"] | None = Field(
        None,
        description="How prompts are cut; `original` also cuts references and bounds prompt and answer together, as ChatGLM-6B's script.",
    )
    prompt_column: str | None = Field(None, min_length=1, description="Column of the question.")
    response_column: str | None = Field(None, min_length=1, description="Column of the reference answer.")
    history_column: str | None = Field(None, min_length=1, description="Column of earlier turns.")
    fill: dict[str, str] | None = Field(None, description="Texts for the placeholders of the rows, such as {name: ..., author: ...}.")
    max_source_length: int | None = Field(None, ge=4, description="Most tokens of a prompt.")
    source_prefix: str | None = Field(None, description="Text put before every prompt.")
    max_target_length: int | None = Field(None, ge=4, description="Most tokens of a reference, where truncation is `original`.")
    max_length: int | None = Field(
        None, ge=5, description="Most tokens of prompt and answer together, where truncation is `original`; null adds up the two lengths."
    )
    base_path: Path | None = Field(None, description="Where the base of a run is now, if not where its recipe says.")
    quantize: Literal[4, 8] | None = Field(None, description="Round the base's weights to so many bits.")
    dtype: str | None = Field(None, description="Precision of the base.")
    device: str | None = Field(None, description="Where to compute.")
    template: TemplateName | None = Field(None, description=TEMPLATE_HELP)
    output: Path | None = Field(None, description="Folder to write to; null writes into the run folder, or beside the command.")

    @field_validator("num_beams")
    @classmethod
    def _beams_are_not_sampled(cls, num_beams: int, info: ValidationInfo) -> int:
        if num_beams > 1 and info.data.get("temperature"):
            raise ValueError(f"{num_beams} beams are searched without sampling; set temperature to 0 or num_beams to 1")
        return num_beams


ANSWERS = "answers.jsonl"
CONFUSION = "confusion.png"
LONGEST_LABEL = 512
"""Most tokens of a label."""
FROM_DATA = (
    "truncation",
    "prompt_column",
    "response_column",
    "history_column",
    "fill",
    "source_prefix",
    "max_source_length",
    "max_target_length",
)
"""Knobs that are taken from a run's data section where they are left open."""


@dataclass(frozen=True)
class Question:
    """A prompt ready to be answered."""

    ids: list[int]
    """The prompt."""
    reference: str
    """What it is scored against."""
    limit: int
    """Most tokens the answer may have."""
    cut: bool
    """Whether the prompt lost a part."""


@dataclass(frozen=True)
class Answers:
    """What a model said to all rows of a file, in the file's order, with the scores."""

    references: list[str]
    """What they were scored against."""
    predictions: list[str]
    """What the model said."""
    unfinished: int
    """How many answers were ended by the limit and not by the model."""
    cut_prompts: int
    """How many prompts were too long and lost a part."""
    judged: Judged
    """What they scored; of questions without references all is 0 and says nothing."""

    @property
    def summary(self) -> Summary:
        """The metrics with their intervals."""
        return self.judged.summary

    @property
    def scored(self) -> bool:
        """Whether there is anything to score against."""
        return any(reference.strip() for reference in self.references)

    @property
    def rates(self) -> Rates:
        """What the means hide."""
        return rates_of(self.predictions, self.unfinished)


def evaluate_command(path: Path, *, data: Path, limit: int | None, overrides: Sequence[str]) -> Answers:
    """Answer and score the rows of `data` with a run or a model folder."""
    section = read_overrides(overrides, EvaluateSection)
    run = read_run(path)
    section = resolve(section, run)
    tools = open_template(path, moved(run, section.base_path), section.template).tools
    samples = read_data(section, data, limit, tools=tools)
    output = section.output or answers_folder(path, run, section, name_of(data), limit)
    answers = answer_all(open_asked(path, run, section), samples, section, output)
    beside = baseline_of(run, samples, section)
    report = write_scores(answers, section, run, data, output, beside=beside)
    for line in told(report, output):
        print(line)  # noqa: T201
    return answers


def resolve(section: EvaluateSection, run: Trained | None) -> EvaluateSection:
    """Fill what was left open from the run, else from the defaults of a recipe."""
    known = {name: getattr(run.rows, name) if run else DataSection.model_fields[name].default for name in FROM_DATA}
    section = section.model_copy(update={name: value for name, value in known.items() if getattr(section, name) is None})
    if section.task is None:
        section = section.model_copy(update={"task": run.task if run else TextTask()})
    if section.max_new_tokens is None and section.truncation != "original":
        section = section.model_copy(update={"max_new_tokens": section.max_target_length})
    return section


def open_asked(path: Path, run: Trained | None, section: EvaluateSection) -> Model:
    """The model that a section asks for."""
    run = moved(run, section.base_path)
    return open_model(
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


def answers_folder(path: Path, run: Trained | None, section: EvaluateSection, name: str, limit: int | None) -> Path:
    """Where answers go: into the run folder, or for a model folder beside the command; other rows and other models go elsewhere."""
    home = RunFolder(path).evaluations if run is not None else Path("evaluations") / path.name
    first = f"-first-{limit}" if limit else ""
    model = "-base" if section.base else f"-{section.adapter.name}" if section.adapter else ""
    return home / (name + first + model)


def answer_all(model: Model, samples: list[Sample], section: EvaluateSection, output: Path) -> Answers:
    """Answer all rows, longest prompts first.

    Finished batches are in answers.jsonl at once: a killed command goes on behind them, and a repeated one only scores them. Answers of
    another model or other settings are thrown away.
    """
    questions = [_question(model, sample, section) for sample in samples]
    asked = hashlib.sha256(repr(questions).encode()).hexdigest()[:16]
    aside = {
        "output",
        "base",
        "base_path",
        "adapter",
        "protocol",
        "task",
        "fill",
        *(["batch_size"] if section.temperature == 0 else []),
    }  # what changes no answer
    settings = {"model": model.identity, "asked": asked, "settings": section.model_dump(mode="json", exclude=aside), **_measured(section)}
    kept = output / ANSWERS
    before = read_lines(kept)
    if before[:1] != [settings]:
        write_text(kept, "")
        append_line(kept, settings)
        before = []
    whole = {"row", "prediction", "tokens", "finished", *(("log_probability",) if _measured(section) else ())}
    done: dict[int, dict[str, Any]] = {line["row"]: line for line in before[1:] if line.keys() >= whole}
    batches = sorted_by_length([len(question.ids) for question in questions], section.batch_size)
    open_batches = [batch for batch in batches if not all(row in done for row in batch)]
    if open_batches:
        with Progress(f"answering {len(samples)} rows", len(samples), "row", start=len(samples) - sum(map(len, open_batches))) as progress:
            for batch in open_batches:
                began = time.monotonic()
                try:
                    lines = _answer(batch, questions, model, section)
                except NotFiniteError as error:
                    raise UserError(f"{samples[batch[error.row]].place}: {error}") from error
                for line in lines:
                    append_line(kept, line)
                    done[line["row"]] = line
                tokens = sum(line["tokens"] for line in lines)
                progress.advance(len(batch), {"tokens/s": f"{tokens / (time.monotonic() - began):,.0f}"})
    predictions = [done[row]["prediction"] for row in range(len(samples))]
    references = [question.reference for question in questions]
    _write_predictions(output, samples, references, predictions)
    unfinished = sum(not done[row]["finished"] for row in range(len(samples)))
    cut = sum(question.cut for question in questions)
    task = section.task if section.task is not None and any(reference.strip() for reference in references) else TextTask()
    found = None
    if isinstance(task, ContinuationTask):
        found = [Likelihood(done[row]["log_probability"], done[row]["scored_tokens"]) for row in range(len(samples))]
    judged = judge(task, predictions, references, protocol=section.protocol, likelihoods=found)
    return Answers(references, predictions, unfinished, cut, judged)


def _measured(section: EvaluateSection) -> dict[str, Any]:
    """What is asked of the model besides a text, or instead of it."""
    if isinstance(section.task, ClassificationTask) and section.task.constrained:
        return {"labels": list(section.task.labels)}
    return {"likelihoods": True} if isinstance(section.task, ContinuationTask) else {}


def _question(model: Model, sample: Sample, section: EvaluateSection) -> Question:
    """A sample's prompt, reference and bound under the section's truncation."""
    source, target, bound = section.max_source_length, section.max_target_length, section.max_new_tokens
    assert source is not None, "resolve() fills what was left open"
    assert target is not None
    before = section.source_prefix or ""
    if section.truncation == "original":
        prompt, reference = encode_evaluation_original(
            model.template, sample, max_source_length=source, max_target_length=target, source_prefix=before
        )
        rest = max(1, (section.max_length or source + target + 1) - len(prompt.ids))
        return Question(prompt.ids, reference, rest if bound is None else min(rest, bound), prompt.cut)
    assert bound is not None
    prompt = fit_prompt(model.template, sample.messages, max_source_length=source, source_prefix=before)
    return Question(prompt.ids, sample.answer, bound, prompt.cut)


def _answer(batch: list[int], questions: list[Question], model: Model, section: EvaluateSection) -> list[dict[str, Any]]:
    """The lines of one batch: a text or a label a row, and where the task wants it how probable the reference is."""
    asked = [questions[row] for row in batch]
    if isinstance(section.task, ClassificationTask) and section.task.constrained:
        return _choose(batch, asked, model, section.task)
    lines = _write(batch, asked, model, section)
    if isinstance(section.task, ContinuationTask):
        assert section.max_target_length is not None, "resolve() fills what was left open"
        wanted = [_answer_ids(model, question.reference, section.max_target_length) for question in asked]
        found = likelihoods(model.network, [question.ids for question in asked], wanted, prefix=model.prefix())
        for line, probability, ids in zip(lines, found, wanted, strict=True):
            line |= {"log_probability": probability, "scored_tokens": len(ids)}
    return lines


def _write(batch: list[int], asked: list[Question], model: Model, section: EvaluateSection) -> list[dict[str, Any]]:
    """Free answers; the seed follows from the batch's first row, so that a resumed command draws what an unbroken one draws."""
    limits = [question.limit for question in asked]
    sampling = Sampling(max(limits), section.temperature, section.top_p, section.num_beams, section.seed * 1_000_003 + batch[0])
    answers = generate(model.network, [question.ids for question in asked], sampling, prefix=model.prefix(), limits=limits)
    return [
        {
            "row": row,
            "prediction": model.template.scored(model.tokenizer.decode(answer)),
            "tokens": len(answer),
            "finished": len(answer) < limit,
        }
        for row, answer, limit in zip(batch, answers, limits, strict=True)
    ]


def _choose(batch: list[int], asked: list[Question], model: Model, task: ClassificationTask) -> list[dict[str, Any]]:
    """The most probable label a row, the first of equally probable ones."""
    options = [_answer_ids(model, label, LONGEST_LABEL) for label in task.labels]
    scores = choose(model.network, [question.ids for question in asked], options, prefix=model.prefix())
    lines = []
    for row, place, probability in zip(batch, scores.argmax(1).tolist(), scores.amax(1).tolist(), strict=True):
        tokens = len(options[place]) - 1
        lines.append({"row": row, "prediction": task.labels[place], "tokens": tokens, "finished": True, "log_probability": probability})
    return lines


def _answer_ids(model: Model, text: str, limit: int) -> list[int]:
    """What is learned of a row with this answer: its ids and the one that ends it, at most `limit` of them."""
    row = encode_sample(model.template, Sample("?", text, None, ""), max_source_length=LONGEST_LABEL, max_target_length=limit)
    return [label for label in row.labels if label != NOT_SCORED]


def _write_predictions(output: Path, samples: list[Sample], references: list[str], predictions: list[str]) -> None:
    """`generated_predictions.txt` as the original writes it, and `predictions.jsonl` with the inputs."""
    for name, rows in (
        ("generated_predictions.txt", [{"labels": r, "predict": p} for r, p in zip(references, predictions, strict=True)]),
        (
            "predictions.jsonl",
            [{"input": s.query, "label": r, "prediction": p} for s, r, p in zip(samples, references, predictions, strict=True)],
        ),
    ):
        write_text(output / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_scores(
    answers: Answers, section: EvaluateSection, run: Trained | None, data: Path, output: Path, *, beside: Judged | None = None
) -> dict[str, Any]:
    """Write scores.json, with a confusion picture of a classification, and return what it says.

    Questions without references have rates and no scores. `beside` is what the classical baseline scored.
    """
    found, rates, judged = answers.summary, answers.rates, answers.judged
    report: dict[str, Any] = {"data": str(data), "rows": len(answers.predictions)}
    if answers.scored:
        report |= {"protocol": found.protocol, **{name: asdict(mean) for name, mean in found.means.items()}}
        report |= {"dropped": found.dropped, "references_cut_to": reference_limit(section)}
    if answers.scored and section.task is not None and not isinstance(section.task, TextTask):
        report |= {"task": section.task.kind, **({"signatures": judged.signatures} if judged.signatures else {})}
    report |= {"empty": found.empty, "unfinished_share": rates.unfinished, "repeated_share": rates.repeated}
    report |= {"cut_prompts": answers.cut_prompts}
    if known := [sample.answer for sample in learned_samples(run)]:
        report["copied_share"] = copied_share(answers.predictions, known)
    if judged.classes is not None and isinstance(section.task, ClassificationTask):
        report |= {"classes": [asdict(one) for one in judged.classes.classes], "confusion": judged.classes.confusion}
        draw_confusions({"model": judged, BASELINE: beside}, section.task, output / CONFUSION)
        if beside is not None:
            report["baseline"] = {"name": BASELINE, **{name: asdict(mean) for name, mean in beside.summary.means.items()}}
    report |= {"settings": section.model_dump(mode="json")}
    write_json(output / "scores.json", report)
    return report


def baseline_of(run: Trained | None, samples: Sequence[Sample], section: EvaluateSection) -> Judged | None:
    """What the classical baseline scores on the rows of a classification, trained on what the run learned from.

    None for other tasks, for a model folder, where the recipe wants none, and where the run's rows cannot be read any more.
    """
    task, learned = section.task, learned_samples(run)
    if not isinstance(task, ClassificationTask) or not task.baseline or len({sample.answer.strip() for sample in learned}) < 2:
        return None
    if not any(sample.answer.strip() for sample in samples):
        return None
    asked = [sample.query for sample in samples]
    said = baseline_predictions([sample.query for sample in learned], [sample.answer for sample in learned], asked)
    return judge(task, said, [sample.answer for sample in samples])


def draw_confusions(judged: Mapping[str, Judged | None], task: ClassificationTask, out: Path) -> None:
    """Draw the confusion matrices of several classifiers side by side, under their names."""
    from imprint.report import Panel, confusion_picture

    panels = [Panel(name, one.classes.confusion) for name, one in judged.items() if one is not None and one.classes is not None]
    confusion_picture(panels, task.labels, out)


def reference_limit(section: EvaluateSection) -> int | None:
    """To how many tokens references are cut before they are scored; None where they are whole."""
    if section.truncation != "original":
        return None
    assert section.max_target_length is not None, "resolve() fills what was left open"
    return section.max_target_length - 2


def references_told(limit: int | None) -> str:
    """Whether references were cut, for a person."""
    return "references whole" if limit is None else f"references cut to {limit} tokens, as ChatGLM-6B's script cuts them"


def learned_samples(run: Trained | None) -> list[Sample]:
    """The rows that a run learned from; none where its data cannot be read any more, or is raw text."""
    if run is None or not isinstance(run.data, DataSection):
        return []
    try:
        return load_samples(run.data)[0]
    except UserError:
        return []


def told(report: dict[str, Any], output: Path) -> list[str]:
    """The scores as lines for a person, what is wrong with many answers on top."""
    rates = Rates(report["empty"] / report["rows"], report["repeated_share"], report["unfinished_share"])
    lines = [line for warned in warnings_of(rates) for line in (f"warning: {warned.english}", f"警告：{warned.chinese}")]
    if "protocol" in report:
        lines += _scores_told(report)
    shares = [
        f"{report['empty']} empty",
        f"{report['unfinished_share']:.1%} not ended",
        f"{report['repeated_share']:.1%} repeat themselves",
    ]
    if "copied_share" in report and "classes" not in report:
        shares.append(f"{report['copied_share']:.1%} copied from the training rows")
    if report["cut_prompts"]:
        shares.append(f"{report['cut_prompts']} prompts were cut to max_source_length={report['settings']['max_source_length']}")
    return [*lines, f"{report['rows']} rows: " + ", ".join(shares), f"written to {output}"]


def _scores_told(report: dict[str, Any]) -> Iterator[str]:
    """The table of scores and how they are counted; of a classification its classes and the baseline too."""
    metrics = COUNTED[report.get("task", "text")]
    yield f"{'':10}{'mean':>7}   95 % interval"
    for name in metrics:
        mean = report[name]
        yield f"{name:10}{mean['value']:7.2f}   {mean['low']:.2f} - {mean['high']:.2f}"
    if "baseline" in report:
        yield f"{report['baseline']['name']}, trained on the same rows / 同样数据上的传统基线"
        for name in metrics:
            mean = report["baseline"][name]
            yield f"{name:10}{mean['value']:7.2f}   {mean['low']:.2f} - {mean['high']:.2f}"
    for one in report.get("classes", []):
        shares = f"precision {one['precision']:5.1f}  recall {one['recall']:5.1f}  F1 {one['f1']:5.1f}"
        yield f"  {shares}  {one['rows']:6,} rows  {one['label']}"
    for name, signature in report.get("signatures", {}).items():
        yield f"{name}: {signature}"
    if (protocol := PROTOCOLS.get(report["protocol"])) is not None:
        dropped = f", {report['dropped']} rows left out of the means" if report["dropped"] else ""
        yield f"protocol {protocol.name}: BLEU-4 over {protocol.bleu_tokens}, {references_told(report['references_cut_to'])}{dropped}"
