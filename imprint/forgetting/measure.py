"""The same questions and texts through the base and through what was tuned from it.

Legend: N scored tokens of a batch, V vocabulary.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from imprint.data.document_rows import document_tokens
from imprint.data.encode import EncodedRow
from imprint.data.sample import Sample
from imprint.forgetting.probes import read_probes, read_texts
from imprint.forgetting.score import Asked, Forgetting
from imprint.forgetting.section import ForgettingSection
from imprint.model import Model
from imprint.pack import IGNORE_INDEX, pack
from imprint.progress import Progress

PIECE_TOKENS = 128
"""Most tokens of one piece of text."""


@dataclass(frozen=True)
class Own:
    """Held-out rows of the run, asked beside the probes."""

    samples: Sequence[Sample] = ()
    """The rows."""
    max_source_length: int = 2048
    """Most tokens of a prompt."""
    max_new_tokens: int = 64
    """Most tokens of an answer."""


@dataclass(frozen=True)
class Look:
    """What one model did with a batch."""

    answers: list[str] = field(default_factory=list)
    """To its questions, where they are questions."""
    log_probs: Tensor | None = None
    """(N, V) fp32: of each next token, where it is text."""


@dataclass(frozen=True)
class Pair:
    """A base and what was tuned from it, as two ways to have something read by a model."""

    base: str
    """Folder of the base."""
    both: Callable[[Callable[[Model], Iterator[Look]]], Iterator[tuple[Look, Look]]]
    """Has every batch read by the base and by the tuned model."""


def refuse_unreadable(section: ForgettingSection, base: Path) -> None:
    """Raise UserError for questions or text that cannot be read: better before a long run than behind it."""
    if section.measure:
        read_probes(section.probes_of(base), section.limit)
        read_texts(section.text_of(base))


def pair_of(model: Model) -> Pair:
    """A base with an adapter that can be switched off: each batch is read twice in one pass."""

    def both(read: Callable[[Model], Iterator[Look]]) -> Iterator[tuple[Look, Look]]:
        return zip(_off(model, read), read(model), strict=True)

    return Pair(model.name, both)


def pair_apart(base: str, open_base: Callable[[], Model], open_tuned: Callable[[], Model]) -> Pair:
    """Two models of which only one fits into memory: the base reads everything first, what it found waits in main memory."""

    def both(read: Callable[[Model], Iterator[Look]]) -> Iterator[tuple[Look, Look]]:
        before = [Look(look.answers, None if look.log_probs is None else look.log_probs.cpu()) for look in read(open_base())]
        return zip(before, read(open_tuned()), strict=True)

    return Pair(base, both)


def measure(pair: Pair, section: ForgettingSection, own: Own) -> tuple[Forgetting, list[tuple[str, str]]]:
    """The forgetting of a tuned model, and both answers to each of its own rows.

    Raises UserError for files that cannot be read, NotFiniteError where a model computes no finite numbers.
    """
    began = time.monotonic()
    probes_from, text_from = section.probes_of(Path(pair.base)), section.text_of(Path(pair.base))
    probes, texts = read_probes(probes_from, section.limit), read_texts(text_from)
    answers: list[tuple[str, str]] = []
    total, tokens = 0.0, 0
    questions = [Sample(probe.question, "", None, "") for probe in probes]
    with Progress("asking base and tuned model", 2 * (len(questions) + len(own.samples)), "answer") as progress:

        def read(model: Model) -> Iterator[Look]:
            for look in _read(model, questions, texts, section, own):
                progress.advance(len(look.answers))
                yield look

        for before, after in pair.both(read):
            answers += zip(before.answers, after.answers, strict=True)
            if before.log_probs is not None and after.log_probs is not None:
                total += divergence(before.log_probs.to(after.log_probs.device), after.log_probs)
                tokens += len(after.log_probs)
    rows = tuple(Asked.of(probe.question, probe.keys, *answer) for probe, answer in zip(probes, answers, strict=False))
    kl = total / tokens if tokens and torch.tensor(total).isfinite() else None
    found = Forgetting(rows, kl, tokens, str(probes_from), str(text_from), round(time.monotonic() - began, 1))
    return found, answers[len(probes) :]


def divergence(base: Tensor, tuned: Tensor) -> float:
    """The sum over tokens of KL(base || tuned) in nats, of two tables (N, V) of log-probabilities."""
    return float((base.exp() * (base - tuned)).sum(-1, dtype=torch.float64).sum())


def _off(model: Model, read: Callable[[Model], Iterator[Look]]) -> Iterator[Look]:
    """What the base says; the adapter is off only while it computes, so that the other reading may go on in between."""
    reading = read(model)
    while True:
        with model.adapter_off():
            look = next(reading, None)
        if look is None:
            return
        yield look


def _read(model: Model, questions: Sequence[Sample], texts: Sequence[str], section: ForgettingSection, own: Own) -> Iterator[Look]:
    """Questions in batches, then own rows, then text."""
    for samples, source, target in (
        (questions, 2048, section.max_new_tokens),
        (own.samples, own.max_source_length, own.max_new_tokens),
    ):
        for start in range(0, len(samples), section.batch_size):
            batch = samples[start : start + section.batch_size]
            prompts = [model.prompt_of(one.messages, max_source_length=source) for one in batch]
            yield Look([model.template.scored_text(model.tokenizer.decode(answer)) for answer in model.generate(prompts, target)])
    for rows in _pieces(model, texts, section.text_tokens):
        yield Look(log_probs=log_probs(model, rows))


def _pieces(model: Model, texts: Sequence[str], tokens: int) -> Iterator[list[EncodedRow]]:
    """The first texts as rows in which every token is scored, a few at a time, until there are about so many tokens."""
    batch: list[EncodedRow] = []
    frame = document_tokens(model.tokenizer)
    for text in texts:
        head, scored = (*frame.row_prefix, *frame.bos), (*model.tokenizer.encode(text)[:PIECE_TOKENS], *frame.eos)
        row = EncodedRow((*head, *scored), (*[IGNORE_INDEX] * len(head), *scored))
        batch.append(row)
        tokens -= len(row.ids)
        if tokens <= 0:
            break
        if sum(len(one.ids) for one in batch) >= 2 * PIECE_TOKENS:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.inference_mode()
def log_probs(model: Model, rows: Sequence[EncodedRow]) -> Tensor:
    """Log-probabilities (N, V), fp32, of what comes next at each scored place of the rows."""
    batch = pack([row.ids for row in rows], model.network, [row.labels for row in rows]).to(model.device)
    hidden = model.network(batch, prefix=model.prefix())
    return model.network.logits(hidden[batch.targets]).float().log_softmax(-1)
