"""Evaluation during training: evaluation loss, the best weights so far, answers to watched prompts."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from imprint.data.document_rows import encode_document_start
from imprint.data.encode import encode_messages
from imprint.data.limits import limits_of
from imprint.data.sample import Sample
from imprint.data.section import TextsSection
from imprint.data.truncation import HELD_OUT_ROWS
from imprint.events import Evaluation, WatchedAnswer, finite_or_none
from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.generate import generate
from imprint.inference.request import Request
from imprint.inference.sampling import NotFiniteError
from imprint.messages import Bilingual
from imprint.runtime import is_out_of_memory
from imprint.training.job import TrainJob
from imprint.training.memory import mean_loss
from imprint.training.run_log import RunLog
from imprint.training.state import TrainProgress, save_state


def evaluate_before_tuning(job: TrainJob, progress: TrainProgress, run_log: RunLog) -> None:
    """At the start of a run: measure the evaluation loss of the base, unless the log has it."""
    if progress.step or not job.split.dev or any(isinstance(event, Evaluation) for event in run_log.events):
        return
    loss = evaluation_loss(job, run_log)
    run_log.write(Evaluation(step=0, eval_loss=finite_or_none(loss)))
    rows = job.split.dev_report.count(HELD_OUT_ROWS).english
    run_log.bar.say(Bilingual(f"before tuning: evaluation loss {loss:.4f} on {rows}", "微调前的评估损失").line)


def evaluate_last_step(job: TrainJob, progress: TrainProgress, run_log: RunLog) -> TrainProgress:
    """At the start of a run that has done all its steps: evaluate the last one unless that was done, and save the state.

    A run that was stopped between two evaluations can be started again with the steps that it has done.
    """
    evaluated = any(isinstance(event, Evaluation) and event.step == progress.step for event in run_log.events)
    if progress.step < job.steps or (evaluated if job.split.dev else progress.best_step == progress.step):
        return progress
    progress = evaluate_and_keep_best(job, progress, run_log)
    save_state(job.run.state(progress.step), job.engine, progress)
    return progress


def evaluate_and_keep_best(job: TrainJob, progress: TrainProgress, run_log: RunLog) -> TrainProgress:
    """If it is due after this step: measure the evaluation loss, save the weights if they are the best, answer the watched prompts."""
    section, last = job.recipe.train, progress.step == job.steps
    every = section.evaluate_every or max(1, job.steps // 10)
    if last or progress.step % every == 0:
        loss = evaluation_loss(job, run_log) if job.split.dev else None
        if loss is not None:
            run_log.write(Evaluation(step=progress.step, eval_loss=finite_or_none(loss)))
            rows = job.split.dev_report.count(HELD_OUT_ROWS).english
            run_log.bar.say(Bilingual(f"step {progress.step}: evaluation loss {loss:.4f} on {rows}", "评估损失").line)
        if loss is None or (math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss)):
            progress = replace(progress, best_loss=loss, best_step=progress.step)
            save_best(job, progress)
    if job.split.dev and (last or progress.step % (section.watch_every or max(1, job.steps // 5)) == 0):
        answer_watched_prompts(job, progress.step, run_log)
    return progress


def evaluation_loss(job: TrainJob, run_log: RunLog) -> float:
    """Mean cross-entropy per target token of the held-out rows."""
    return mean_loss(job.tuner, job.engine, job.split.dev, job.rows_at_once, job.token_budget, run_log.memory_notice)


def save_best(job: TrainJob, progress: TrainProgress) -> None:
    """Save the current weights as the result of the run. Collective."""
    scores = {} if progress.best_loss is None else {"eval_loss": progress.best_loss}
    folder = job.run.adapter if job.tuner.adapter is not None else job.run.model
    base, template, step = Path(job.model.name), job.model.template.name, progress.step
    base_name = str(job.recipe.model.path)
    if job.engine.replicated:
        with job.engine.full_precision() if job.tuner.adapter is not None else nullcontext():
            job.world.on_main(lambda: job.tuner.save(folder, base=base_name, base_folder=base, template=template, step=step, scores=scores))
    else:
        job.tuner.save_sharded(folder, base, job.engine.gather, is_main=job.world.is_main)


def answer_watched_prompts(job: TrainJob, step: int, run_log: RunLog) -> None:
    """Answer the first held-out prompts greedily and log the answers. Collective."""
    samples = job.split.dev_samples[: job.recipe.train.watch_prompts]
    if not samples:
        return
    answers = job.world.on_main(partial(generate_answers, job, samples)) if job.engine.replicated else generate_answers(job, samples)
    if isinstance(answers, str):
        run_log.notice(Bilingual(f"step {step}: no sample answers: {answers}", f"第 {step} 步未能回答观察的提示：{answers}"), "sample")
        return
    for sample, answer in zip(samples, answers, strict=True):
        run_log.write(WatchedAnswer(step=step, prompt=sample.query, answer=answer))


@torch.no_grad()
def generate_answers(job: TrainJob, samples: Sequence[Sample]) -> list[str] | str:
    """Greedy answers to these prompts, or the reason why there are none: a failure here does not end the run."""
    limit = limits_of(job.recipe.data).answer
    try:
        with job.engine.generation_mode():
            model = PrefixedNetwork(job.model.network, job.tuner.eval().prefix())
            answers = generate(model, [Request(ids, limit) for ids in encode_prompts(job, samples)])
    except (NotFiniteError, RuntimeError, MemoryError) as error:
        if not isinstance(error, NotFiniteError) and not (is_out_of_memory(error) and job.engine.replicated):
            raise
        return str(error)
    return [job.model.template.scored_text(job.model.tokenizer.decode(answer)) for answer in answers]


def encode_prompts(job: TrainJob, samples: Sequence[Sample]) -> list[list[int]]:
    """Token ids of the watched prompts; for raw text, those of its beginning."""
    section = job.recipe.data
    if isinstance(section, TextsSection):
        return [encode_document_start(job.model.tokenizer, sample.query) for sample in samples]
    limit, template, prefix = limits_of(section).prompt, job.model.template, section.source_prefix
    return [encode_messages(template, sample.messages, max_source_length=limit, source_prefix=prefix).ids for sample in samples]
