"""What a run tells in words: what is trained, what was cut, how it went, and what to do next."""

from collections.abc import Sequence

import torch

from imprint.data.truncation import cut_warning
from imprint.files.atomic import write_json
from imprint.inference.step_graphs import captures_summary, joined
from imprint.messages import Bilingual
from imprint.report.next_steps import next_steps
from imprint.training.job import TrainJob, graphs_notice, products_notice
from imprint.training.run_log import RunLog
from imprint.training.state import TrainProgress
from imprint.training.summary import PartOfEpoch, RunSummary, next_lines, verdict_messages


def print_start(job: TrainJob, progress: TrainProgress, run_log: RunLog) -> None:
    """Print what is trained."""
    show = run_log.bar.say
    network = job.model.network
    precision = f" in {network.weight_format.label.english}" if network.weight_format else ""
    processes = f" by {job.world.size} processes" if job.world.size > 1 else ""
    base, trained = _millions(job.base_parameters, 1), _millions(job.trained_parameters, 2)
    show(
        Bilingual(
            f"base {job.model.name}: {base} parameters{precision} on {job.model.device}; {trained} are trained{processes}",
            f"底座参数 {base}，训练其中 {trained}",
        ).line
    )
    if network.dtype == torch.float16 and job.model.device.type == "cpu":
        slow = "float16 is many times slower than float32 on a CPU; leave model.dtype out for float32"
        show(Bilingual(slow, "在 CPU 上 float16 比 float32 慢许多倍；去掉 model.dtype 即用 float32").line)
    for line in (*job.engine.notices(), *job.split.sources):
        show(line)
    for notice in (graphs_notice(job), products_notice(network)):
        if notice is not None:
            show(notice.line)
    cut = cut_notice(job)
    whole = job.split.train_report.summary() if cut is None else None
    rows = job.split.counts()
    show((Bilingual(f"{rows.english}; {whole.english}", f"{rows.chinese}；{whole.chinese}") if whole else rows).line)
    if cut is not None:
        run_log.notice_once(cut, "data")
    if progress.rate_scale != 1:
        show(f"rescued {progress.rescues} times so far: the learning rate is {progress.rate_scale:.3g} of the recipe's / 学习率已降低")
    if 0 < progress.step < job.steps:
        show(Bilingual(f"resuming after step {progress.step} of {job.steps}", f"从第 {progress.step} 步之后继续").line)


def _millions(count: int, digits: int) -> str:
    """A number of parameters in millions, or of a tiny network as it is: 0.0 M would say nothing."""
    return f"{count / 1e6:.{digits}f} M" if round(count / 1e6, digits) else f"{count:,}"


def cut_notice(job: TrainJob) -> Bilingual | None:
    """What the length limits cut, and the cure; None if nothing is cut."""
    split = job.split
    if split.limits is None:
        return None
    return cut_warning(split.train_report, split.dev_report, split.limits, job.model.network.shape.max_length)


def write_verdict(job: TrainJob, run_log: RunLog) -> list[Bilingual]:
    """How the run went and what to try next; written into the run folder for the report."""
    summary = RunSummary.from_log(
        run_log.events,
        rows=len(job.split.train),
        held_out=len(job.split.dev),
        epochs=job.batches.epochs_at(job.steps),
        steps=job.steps,
        part=_part_of_epoch(job),
        flags=job.flags,
        several_answers=job.split.several_answers,
    )
    messages = verdict_messages(summary)
    messages += [cut] if (cut := cut_notice(job)) is not None else []
    if job.world.is_main and job.recipe.train.report:
        write_json(job.run.verdict, [[message.english, message.chinese] for message in messages])
    return messages


def _part_of_epoch(job: TrainJob) -> PartOfEpoch | None:
    """How far the run came in its first epoch; None if it learned from every row."""
    if job.batches.epochs_at(job.steps) >= 1:
        return None
    seen = job.batches.rows_until(job.steps)
    return None if seen == job.batches.own_rows else PartOfEpoch(seen, job.batches.total_steps(1))


def print_end(job: TrainJob, progress: TrainProgress, run_log: RunLog, verdict: Sequence[Bilingual]) -> None:
    """Print the result, the verdict and the next commands."""
    path, result = job.run.path, job.run.adapter if job.tuner.adapter is not None else job.run.model
    loss = "" if progress.best_loss is None else f" with evaluation loss {progress.best_loss:.4f}"
    done = Bilingual(
        f"finished: {job.steps} of {job.steps} steps are done; {result} holds step {progress.best_step}{loss}",
        f"训练完成，保存的是第 {progress.best_step} 步",
    )
    run_log.bar.say(done.line)
    made = joined(None if job.graphs is None else job.graphs.summary(), captures_summary(job.model.network))
    if made is not None:
        run_log.bar.say(made.line)
    data, held_out = job.recipe.data, len(job.split.dev)
    steps = next_steps(str(path), None if data.dev is None else str(data.dev), data.kind, held_out=held_out > 0)
    for line in (*map(str, verdict), *next_lines(steps)):
        run_log.bar.say(line)
