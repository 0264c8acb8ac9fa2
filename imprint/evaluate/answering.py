"""Generate answers in batches; they are written to answers.jsonl batch by batch, in order, so that a killed command resumes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint.data.batches import longest_first_batches
from imprint.data.encode import encode_messages, encode_sample
from imprint.data.original import encode_evaluation_sample_original
from imprint.data.readers.predictions import MAX_SCORED_CHARACTERS, too_long_to_score
from imprint.data.sample import Sample
from imprint.evaluate.digests import settings_digest, text_digest
from imprint.evaluate.limits import with_limits
from imprint.evaluate.section import EvaluateSection
from imprint.files.atomic import append_jsonl, read_jsonl, write_jsonl, write_text
from imprint.inference.generate import generate
from imprint.inference.likelihood import score_answers, score_options
from imprint.inference.request import Request
from imprint.inference.sampling import NotFiniteError, row_seed
from imprint.inference.section import DecodingSection
from imprint.inference.side_by_side import Check, side_by_side, threads_for
from imprint.inference.stop_text import before_stop
from imprint.messages import Bilingual, UserError
from imprint.metrics.means import Summary
from imprint.metrics.rates import FailureRates, failure_rates
from imprint.metrics.task_scores import Likelihood, TaskScores, score_task
from imprint.metrics.tokens import load_dictionary_ahead
from imprint.model import Model
from imprint.progress import Progress
from imprint.task import ClassificationTask, ContinuationTask, TextTask

ANSWERS = "answers.jsonl"
MAX_LABEL_TOKENS = 512
LATER_KNOBS = ("top_k", "repetition_penalty", "stop")
"""Knobs that answers.jsonl of earlier versions does not name."""


@dataclass(frozen=True)
class EvaluationPrompt:
    """An encoded prompt with its reference."""

    ids: list[int]
    """Prompt ids."""
    reference: str
    """The answer it is scored against."""
    limit: int
    """Maximum number of new tokens."""
    cut: bool
    """Whether the prompt was truncated."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to all rows of a file, in file order, with their scores."""

    references: list[str]
    """The reference of each row."""
    predictions: list[str]
    """The answer to each row."""
    unfinished: int
    """Number of answers that hit the token limit instead of ending."""
    cut_prompts: int
    """Number of truncated prompts."""
    scores: TaskScores
    """Scores; all 0 and meaningless without references."""
    section: EvaluateSection
    """The settings, with the limits under which they were answered."""

    @property
    def summary(self) -> Summary:
        """Metrics with confidence intervals."""
        return self.scores.summary

    @property
    def scored(self) -> bool:
        """Whether there is anything to score against."""
        return any(reference.strip() for reference in self.references)

    @property
    def rates(self) -> FailureRates:
        """Shares of empty, unfinished and repetitive answers."""
        return failure_rates(self.predictions, self.unfinished)


def answer_all(model: Model, samples: list[Sample], section: EvaluateSection, output: Path) -> Answers:
    """Answer all rows, longest prompts first.

    Finished batches are written to answers.jsonl at once: a killed command resumes after them, and a repeated command only scores them.
    Answers of another model or other settings are discarded. Raises UserError for rows and labels that cannot be scored, before anything
    is generated.
    """
    section = with_limits(section, samples, model)
    task = section.task if section.task is not None and any(sample.answer.strip() for sample in samples) else TextTask()
    if isinstance(task, ClassificationTask):
        refuse_unknown_labels(task, samples)
    _refuse_long_references(samples, section)
    questions = [_prepare_prompt(model, sample, section) for sample in samples]
    file = output / ANSWERS
    key, answered = _reusable_answers(file, model, questions, section)
    batches = longest_first_batches([len(question.ids) for question in questions], section.batch_size)
    pending_batches = [batch for batch in batches if not all(row in answered for row in batch)]
    if pending_batches:
        if isinstance(task, TextTask):
            load_dictionary_ahead()
        for line in _answer_batches(pending_batches, samples, questions, model, section):
            append_jsonl(file, {**line, "key": key})
            answered[line["row"]] = line
    lines = [answered[row] for row in range(len(samples))]
    predictions, references = [line["prediction"] for line in lines], [question.reference for question in questions]
    _write_predictions(output, samples, references, predictions)
    likelihood_rows = None
    if isinstance(task, ContinuationTask):
        likelihood_rows = [Likelihood(line["log_probability"], line["scored_tokens"]) for line in lines]
    scores = score_task(task, predictions, references, protocol=section.protocol, likelihoods=likelihood_rows)
    unfinished = sum(not line["finished"] for line in lines)
    return Answers(references, predictions, unfinished, sum(question.cut for question in questions), scores, section)


def refuse_unknown_labels(task: ClassificationTask, samples: Sequence[Sample]) -> None:
    """Raise UserError for rows whose answer is none of the labels."""
    unknown = [sample for sample in samples if sample.answer.strip() not in task.labels]
    if unknown:
        raise UserError(
            Bilingual(
                f'{unknown[0].location}: "{unknown[0].answer}" is none of the labels {", ".join(task.labels)}, and so in '
                f"{len(unknown):,} of {len(samples):,} rows. Name every label of the data in task.labels, or fix the rows.",
                f"{unknown[0].location}：有的答案不在标签之中：请在 task.labels 中写全所有标签，或修改这些数据。",
            )
        )


def _refuse_long_references(samples: Sequence[Sample], section: EvaluateSection) -> None:
    """Raise UserError for a reference that is too long to be scored, and is not cut."""
    for sample in samples if section.truncation != "original" else ():
        if len(sample.answer) > MAX_SCORED_CHARACTERS:
            raise UserError(too_long_to_score("the reference", len(sample.answer))).prefixed(f"{sample.location}: ")


def _reusable_answers(
    file: Path, model: Model, questions: Sequence[EvaluationPrompt], section: EvaluateSection
) -> tuple[str, dict[int, dict[str, Any]]]:
    """(the key of new answers, the answers of an earlier command to the same questions with the same settings, by row).

    If the first line tells of another model, other questions or settings, a new file is started. Each answer has the key of its settings,
    so that one that another process has written after this first line is not taken for its own.
    """
    ignored = {"output", "base", "base_path", "adapter", "protocol", "task", "fill", "batch_size"}  # do not change an answer
    if section.temperature == 0:  # greedy answers of versions without these knobs stay valid
        ignored |= {name for name in LATER_KNOBS if getattr(section, name) == DecodingSection.model_fields[name].default}
    settings = {
        "model": model.identity,
        "asked": text_digest(repr(questions)),
        "settings": section.model_dump(mode="json", exclude=ignored),
        **_extra_measurements(section),
    }
    key = settings_digest(settings)
    lines = read_jsonl(file)
    if lines[:1] != [settings]:
        write_text(file, "")
        append_jsonl(file, settings)
        return key, {}
    scored = isinstance(section.task, ContinuationTask)
    return key, {line["row"]: line for line in lines[1:] if _is_answer(line, key) and (not scored or _is_scored(line))}


def _is_answer(line: object, key: str) -> bool:
    """Whether a line is an answer of these settings; files of earlier versions have no keys."""
    match line:
        case {"row": int(), "prediction": str(), "tokens": int(), "finished": bool(), **others}:
            return bool(others.get("key", key) == key)
    return False


def _is_scored(line: dict[str, Any]) -> bool:
    """Whether an answer comes with the log-probability of its reference."""
    match line:
        case {"log_probability": float() | int(), "scored_tokens": int()}:
            return True
    return False


def _extra_measurements(section: EvaluateSection) -> dict[str, Any]:
    """What is computed in addition to a generated text, or instead of it; part of the key of answers.jsonl."""
    if isinstance(section.task, ClassificationTask) and section.task.constrained:
        return {"labels": list(section.task.labels)}
    return {"likelihoods": True} if isinstance(section.task, ContinuationTask) else {}


def _prepare_prompt(model: Model, sample: Sample, section: EvaluateSection) -> EvaluationPrompt:
    """Encode a sample's prompt under the section's truncation."""
    source, target, max_new_tokens = section.max_source_length, section.max_target_length, section.max_new_tokens
    assert source is not None, "with_limits() fills in null limits"
    assert target is not None
    source_prefix = section.source_prefix or ""
    if section.truncation == "original":
        prompt, reference = encode_evaluation_sample_original(
            model.template, sample, max_source_length=source, max_target_length=target, source_prefix=source_prefix
        )
        remaining = max(1, (section.max_length or source + target + 1) - len(prompt.ids))
        return EvaluationPrompt(prompt.ids, reference, remaining if max_new_tokens is None else min(remaining, max_new_tokens), prompt.cut)
    assert max_new_tokens is not None
    prompt = encode_messages(model.template, sample.messages, max_source_length=source, source_prefix=source_prefix)
    return EvaluationPrompt(prompt.ids, sample.answer, max_new_tokens, prompt.cut)


def _answer_batches(
    batches: list[list[int]], samples: Sequence[Sample], questions: list[EvaluationPrompt], model: Model, section: EvaluateSection
) -> Iterator[dict[str, Any]]:
    """Lines of answers.jsonl, batch after batch, with the progress of all rows; a small network answers several batches at a time."""

    def answer(batch: list[int], check: Check) -> list[dict[str, Any]]:
        try:
            return _answer_batch(batch, questions, model, section, check)
        except NotFiniteError as error:
            raise error.prefixed(f"{samples[batch[error.row]].location}: ") from error

    generated_only = section.task is None or isinstance(section.task, TextTask)
    longest = max(len(questions[row].ids) + questions[row].limit for batch in batches for row in batch)
    threads = min(threads_for(model.network, len(batches[0]), longest), len(batches)) if generated_only else 1
    tokens, start = 0, time.monotonic()
    with (
        Progress(Bilingual("answering", "回答"), len(samples), "row", start=len(samples) - sum(map(len, batches))) as progress,
        closing(side_by_side(answer, batches, threads)) as parts,
    ):
        for lines in parts:
            yield from lines
            tokens += sum(line["tokens"] for line in lines)
            progress.advance(len(lines), {"tokens/s": f"{tokens / (time.monotonic() - start):,.0f}"})


def _answer_batch(
    batch: list[int], questions: list[EvaluationPrompt], model: Model, section: EvaluateSection, check: Check
) -> list[dict[str, Any]]:
    """Lines of answers.jsonl for one batch: a text or a label per row, and for a continuation the reference's log-probability."""
    prompts = [questions[row] for row in batch]
    if isinstance(section.task, ClassificationTask) and section.task.constrained:
        return _choose_labels(batch, prompts, model, section.task)
    lines = _generate_answers(batch, prompts, model, section, check)
    if isinstance(section.task, ContinuationTask):
        assert section.max_target_length is not None, "with_limits() fills in null limits"
        targets = [_target_ids(model, question.reference, section.max_target_length) for question in prompts]
        log_probs = score_answers(model.network, [question.ids for question in prompts], targets, prefix=model.prefix())
        for line, probability, ids in zip(lines, log_probs, targets, strict=True):
            line |= {"log_probability": probability, "scored_tokens": len(ids)}
    return lines


def _generate_answers(
    batch: list[int], prompts: list[EvaluationPrompt], model: Model, section: EvaluateSection, check: Check
) -> list[dict[str, Any]]:
    """Generated texts; a row's seed depends on its place in the data alone, not on the rows that are answered with it."""
    requests = [
        Request(
            question.ids,
            question.limit,
            section.temperature,
            section.top_p,
            section.top_k,
            section.repetition_penalty,
            row_seed(section.seed, row),
            stop=section.stop,
        )
        for row, question in zip(batch, prompts, strict=True)
    ]
    answers = generate(model, requests, num_beams=section.num_beams, on_token=lambda _row, _token: check())
    texts = [before_stop(model.tokenizer.decode(answer), section.stop, done=True) for answer in answers]
    return [
        {
            "row": row,
            "prediction": model.template.scored_text(text),
            "tokens": len(answer),
            "finished": len(answer) < request.max_new_tokens or any(stop in text for stop in request.stop),
        }
        for row, answer, text, request in zip(batch, answers, texts, requests, strict=True)
    ]


def _choose_labels(batch: list[int], prompts: list[EvaluationPrompt], model: Model, task: ClassificationTask) -> list[dict[str, Any]]:
    """The most probable label of each row; the first one of equally probable labels."""
    options = [_target_ids(model, label, MAX_LABEL_TOKENS) for label in task.labels]
    for index, option in enumerate(options):
        if option in options[:index]:
            same = task.labels[options.index(option)]
            raise UserError(
                Bilingual(
                    f'task.labels: "{same}" and "{task.labels[index]}" are the same tokens in this model. Give different labels.',
                    f"task.labels：“{same}”与“{task.labels[index]}”对该模型是相同的词元：请换用不同的标签。",
                )
            )
    scores = score_options(model.network, [question.ids for question in prompts], options, prefix=model.prefix())
    lines = []
    for row, index, probability in zip(batch, scores.argmax(1).tolist(), scores.amax(1).tolist(), strict=True):
        tokens = len(options[index]) - 1
        lines.append({"row": row, "prediction": task.labels[index], "tokens": tokens, "finished": True, "log_probability": probability})
    return lines


def _target_ids(model: Model, text: str, limit: int) -> list[int]:
    """The target ids of a row with this answer, its end token included; at most `limit` of them."""
    row = encode_sample(model.template, Sample("?", text, None, ""), max_source_length=MAX_LABEL_TOKENS, max_target_length=limit)
    return [token for token, scored in zip(row.ids, row.scored, strict=True) if scored]


def _write_predictions(output: Path, samples: list[Sample], references: list[str], predictions: list[str]) -> None:
    """`generated_predictions.txt` as the original writes it, and `predictions.jsonl` with the inputs."""
    for name, rows in (
        ("generated_predictions.txt", [{"labels": r, "predict": p} for r, p in zip(references, predictions, strict=True)]),
        (
            "predictions.jsonl",
            [{"input": s.query, "label": r, "prediction": p} for s, r, p in zip(samples, references, predictions, strict=True)],
        ),
    ):
        write_jsonl(output / name, rows)
