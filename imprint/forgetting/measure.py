"""Runs the same questions and texts through the base and the tuned model.

Legend: N scored tokens of a batch, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from imprint.data.document_rows import document_frame
from imprint.data.encode import EncodedRow
from imprint.data.sample import Sample
from imprint.forgetting.probes import read_probes, read_texts
from imprint.forgetting.result import Forgetting, ProbeResult
from imprint.forgetting.section import ForgettingSection
from imprint.messages import Bilingual
from imprint.model import Model
from imprint.progress import Progress

MAX_TEXT_TOKENS = 128
"""Longer texts are truncated."""


@dataclass(frozen=True)
class RunPrompts:
    """Rows of the run's own data, answered besides the probes."""

    samples: Sequence[Sample] = ()
    """The rows."""
    max_source_length: int = 2048
    """Maximum tokens of a prompt."""
    max_new_tokens: int = 64
    """Maximum tokens of an answer."""


@dataclass(frozen=True)
class BatchOutput:
    """The output of one model for a batch."""

    answers: list[str] = field(default_factory=list)
    """Answers, if the batch holds questions."""
    log_probs: Tensor | None = None
    """(N, V) fp32 log-probabilities of each next token, if the batch holds text."""
    labels: Tensor | None = None
    """(N,) the next tokens of the text."""

    def to_cpu(self) -> "BatchOutput":
        """The same output in main memory."""
        return BatchOutput(self.answers, *(None if tensor is None else tensor.cpu() for tensor in (self.log_probs, self.labels)))

    def text_loss(self) -> float:
        """The sum over tokens of the loss of the text, in nats; 0 without text."""
        if self.log_probs is None or self.labels is None:
            return 0.0
        return -float(self.log_probs.gather(-1, self.labels[:, None]).sum(dtype=torch.float64))


@dataclass(frozen=True)
class ModelPair:
    """A base and the model tuned from it."""

    base: str
    """Folder of the base."""
    run_both: Callable[[Callable[[Model], Iterator[BatchOutput]]], Iterator[tuple[BatchOutput, BatchOutput]]]
    """Calls a function of a model with the base and with the tuned model; yields the outputs of both for each batch."""


def check_files(section: ForgettingSection, base: Path) -> None:
    """Raise UserError for unreadable questions or text: called before a long run, not after it."""
    if section.measure:
        read_probes(section.probes_path(base), section.limit)
        read_texts(section.text_path(base))


def adapter_pair(model: Model) -> ModelPair:
    """A base with an adapter that can be switched off: both process batch after batch."""

    def run_both(run: Callable[[Model], Iterator[BatchOutput]]) -> Iterator[tuple[BatchOutput, BatchOutput]]:
        return zip(_run_base(model, run), run(model), strict=True)

    return ModelPair(model.name, run_both)


def model_pair(base: str, open_base: Callable[[], Model], open_tuned: Callable[[], Model]) -> ModelPair:
    """Two models of which only one fits into memory: the base processes all batches first; its outputs wait in main memory."""

    def run_both(run: Callable[[Model], Iterator[BatchOutput]]) -> Iterator[tuple[BatchOutput, BatchOutput]]:
        before = [output.to_cpu() for output in run(open_base())]
        return zip(before, run(open_tuned()), strict=True)

    return ModelPair(base, run_both)


def measure(pair: ModelPair, section: ForgettingSection, own: RunPrompts) -> tuple[Forgetting, list[tuple[str, str]]]:
    """The forgetting of a tuned model, and both answers to each row of `own`.

    Raises UserError for unreadable files, NotFiniteError if a model's logits are not finite.
    """
    started = time.monotonic()
    probes_from, text_from = section.probes_path(Path(pair.base)), section.text_path(Path(pair.base))
    probes, texts = read_probes(probes_from, section.limit), read_texts(text_from)
    answers: list[tuple[str, str]] = []
    divergence, losses, tokens = 0.0, (0.0, 0.0), 0
    questions = [Sample(probe.question, "", None, "") for probe in probes]
    count = 2 * (len(questions) + len(own.samples))
    with Progress(Bilingual("asking both models", "询问两个模型"), count, "answer") as progress:

        def run(model: Model) -> Iterator[BatchOutput]:
            for output in _run(model, questions, texts, section, own):
                progress.advance(len(output.answers))
                yield output

        for before, after in pair.run_both(run):
            answers += zip(before.answers, after.answers, strict=True)
            if before.log_probs is not None and after.log_probs is not None:
                divergence += kl_divergence(before.log_probs.to(after.log_probs.device), after.log_probs)
                losses = losses[0] + before.text_loss(), losses[1] + after.text_loss()
                tokens += len(after.log_probs)
    rows = tuple(ProbeResult.compare(probe.question, probe.accepted, *answer) for probe, answer in zip(probes, answers, strict=False))
    kl, base_loss, tuned_loss = (total / tokens if tokens and math.isfinite(total) else None for total in (divergence, *losses))
    seconds = round(time.monotonic() - started, 1)
    result = Forgetting(rows, kl, tokens, str(probes_from), str(text_from), seconds, base_loss, tuned_loss)
    return result, answers[len(probes) :]


def kl_divergence(base: Tensor, tuned: Tensor) -> float:
    """The sum over tokens of KL(base || tuned) in nats; both are log-probabilities (N, V)."""
    return float((base.exp() * (base - tuned)).sum(-1, dtype=torch.float64).sum())


def _run_base(model: Model, run: Callable[[Model], Iterator[BatchOutput]]) -> Iterator[BatchOutput]:
    """The base's outputs; the adapter is off only during a batch, so that the tuned model can run in between."""
    outputs = run(model)
    while True:
        with model.adapter_off():
            output = next(outputs, None)
        if output is None:
            return
        yield output


def _run(
    model: Model, questions: Sequence[Sample], texts: Sequence[str], section: ForgettingSection, own: RunPrompts
) -> Iterator[BatchOutput]:
    """The outputs for batches of questions, of own rows, and of text."""
    for samples, source, target in (
        (questions, 2048, section.max_new_tokens),
        (own.samples, own.max_source_length, own.max_new_tokens),
    ):
        for start in range(0, len(samples), section.batch_size):
            batch = samples[start : start + section.batch_size]
            prompts = [model.prompt_of(one.messages, max_source_length=source) for one in batch]
            yield BatchOutput([model.template.scored_text(model.tokenizer.decode(answer)) for answer in model.generate(prompts, target)])
    for rows in _text_batches(model, texts, section.text_tokens):
        yield text_output(model, rows)


def _text_batches(model: Model, texts: Sequence[str], tokens: int) -> Iterator[list[EncodedRow]]:
    """Batches of the first texts, with every token scored, until there are about this many tokens."""
    batch: list[EncodedRow] = []
    frame = document_frame(model.tokenizer)
    for text in texts:
        head, scored = (*frame.sequence_prefix, *frame.bos), (*model.tokenizer.encode(text)[:MAX_TEXT_TOKENS], *frame.eos)
        row = EncodedRow.of(head, scored)
        batch.append(row)
        tokens -= len(row.ids)
        if tokens <= 0:
            break
        if sum(len(one.ids) for one in batch) >= 2 * MAX_TEXT_TOKENS:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.inference_mode()
def text_output(model: Model, rows: Sequence[EncodedRow]) -> BatchOutput:
    """The log-probabilities of the next token at each scored position."""
    logits, labels = model.target_logits(rows)
    return BatchOutput(log_probs=logits.float().log_softmax(-1), labels=labels)
