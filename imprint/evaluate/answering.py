"""Questions to a model, batch by batch, each answer on the disk as soon as it is there."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint.data.batches import longest_first_batches
from imprint.data.encode import encode_messages, encode_sample
from imprint.data.original import encode_evaluation_original
from imprint.data.sample import Sample
from imprint.errors import UserError
from imprint.evaluate.section import EvaluateSection
from imprint.files import append_jsonl, read_jsonl, write_text
from imprint.inference.generate import generate
from imprint.inference.likelihood import score_answers, score_options
from imprint.inference.sampling import NotFiniteError, Sampling
from imprint.metrics.means import Summary
from imprint.metrics.rates import FailureRates, failure_rates
from imprint.metrics.task_scores import Likelihood, TaskScores, score_task
from imprint.model import Model
from imprint.pack import IGNORE_INDEX
from imprint.progress import Progress
from imprint.task import ClassificationTask, ContinuationTask, TextTask

ANSWERS = "answers.jsonl"
LONGEST_LABEL = 512
"""Most tokens of a label."""


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
    judged: TaskScores
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
    def rates(self) -> FailureRates:
        """What the means hide."""
        return failure_rates(self.predictions, self.unfinished)


def answer_all(model: Model, samples: list[Sample], section: EvaluateSection, output: Path) -> Answers:
    """Answer all rows, longest prompts first.

    Finished batches are in answers.jsonl at once: a killed command goes on behind them, and a repeated one only scores them. Answers of
    another model or other settings are thrown away. Raises UserError for rows and labels that cannot be scored before anything is asked.
    """
    task = section.task if section.task is not None and any(sample.answer.strip() for sample in samples) else TextTask()
    if isinstance(task, ClassificationTask):
        refuse_strange_labels(task, samples)
    questions = [_question(model, sample, section) for sample in samples]
    kept = output / ANSWERS
    done = _begin(kept, model, questions, section)
    batches = longest_first_batches([len(question.ids) for question in questions], section.batch_size)
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
                    append_jsonl(kept, line)
                    done[line["row"]] = line
                tokens = sum(line["tokens"] for line in lines)
                progress.advance(len(batch), {"tokens/s": f"{tokens / (time.monotonic() - began):,.0f}"})
    lines = [done[row] for row in range(len(samples))]
    predictions, references = [line["prediction"] for line in lines], [question.reference for question in questions]
    _write_predictions(output, samples, references, predictions)
    found = None
    if isinstance(task, ContinuationTask):
        found = [Likelihood(line["log_probability"], line["scored_tokens"]) for line in lines]
    judged = score_task(task, predictions, references, protocol=section.protocol, likelihoods=found)
    unfinished = sum(not line["finished"] for line in lines)
    return Answers(references, predictions, unfinished, sum(question.cut for question in questions), judged)


def refuse_strange_labels(task: ClassificationTask, samples: Sequence[Sample]) -> None:
    """Raise UserError for rows whose answer is none of the labels: better before they are asked than behind it."""
    strange = [sample for sample in samples if sample.answer.strip() not in task.labels]
    if strange:
        raise UserError(
            f'{strange[0].place}: "{strange[0].answer}" is none of the labels {", ".join(task.labels)}, and so in {len(strange):,} of '
            f"{len(samples):,} rows. Name every label of the data in task.labels, or mend the rows."
        )


def _begin(kept: Path, model: Model, questions: Sequence[Question], section: EvaluateSection) -> dict[int, dict[str, Any]]:
    """The answers that an earlier command left to the same questions, by row; else a new file."""
    aside = {"output", "base", "base_path", "adapter", "protocol", "task", "fill"}  # what changes no answer
    if section.temperature == 0:
        aside.add("batch_size")
    asked = hashlib.sha256(repr(questions).encode()).hexdigest()[:16]
    settings = {"model": model.identity, "asked": asked, "settings": section.model_dump(mode="json", exclude=aside), **_measured(section)}
    before = read_jsonl(kept)
    if before[:1] != [settings]:
        write_text(kept, "")
        append_jsonl(kept, settings)
        return {}
    return {line["row"]: line for line in before[1:]}


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
    prompt = encode_messages(model.template, sample.messages, max_source_length=source, source_prefix=before)
    return Question(prompt.ids, sample.answer, bound, prompt.cut)


def _answer(batch: list[int], questions: list[Question], model: Model, section: EvaluateSection) -> list[dict[str, Any]]:
    """The lines of one batch: a text or a label a row, and where the task wants it how probable the reference is."""
    asked = [questions[row] for row in batch]
    if isinstance(section.task, ClassificationTask) and section.task.constrained:
        return _score_options(batch, asked, model, section.task)
    lines = _write(batch, asked, model, section)
    if isinstance(section.task, ContinuationTask):
        assert section.max_target_length is not None, "resolve() fills what was left open"
        wanted = [_answer_ids(model, question.reference, section.max_target_length) for question in asked]
        found = score_answers(model.network, [question.ids for question in asked], wanted, prefix=model.prefix())
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


def _score_options(batch: list[int], asked: list[Question], model: Model, task: ClassificationTask) -> list[dict[str, Any]]:
    """The most probable label a row, the first of equally probable ones."""
    options = [_answer_ids(model, label, LONGEST_LABEL) for label in task.labels]
    for place, option in enumerate(options):
        if option in options[:place]:
            same = task.labels[options.index(option)]
            raise UserError(f'task.labels: "{same}" and "{task.labels[place]}" are the same tokens to this model. Give labels that differ.')
    scores = score_options(model.network, [question.ids for question in asked], options, prefix=model.prefix())
    lines = []
    for row, place, probability in zip(batch, scores.argmax(1).tolist(), scores.amax(1).tolist(), strict=True):
        tokens = len(options[place]) - 1
        lines.append({"row": row, "prediction": task.labels[place], "tokens": tokens, "finished": True, "log_probability": probability})
    return lines


def _answer_ids(model: Model, text: str, limit: int) -> list[int]:
    """What is learned of a row with this answer: its ids and the one that ends it, at most `limit` of them."""
    row = encode_sample(model.template, Sample("?", text, None, ""), max_source_length=LONGEST_LABEL, max_target_length=limit)
    return [label for label in row.labels if label != IGNORE_INDEX]


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
