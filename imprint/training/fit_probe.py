"""Computes the longest rows of a run once, which measures what a forecast predicts."""

from dataclasses import replace

import torch

from imprint.engine.world import join_world
from imprint.files.scratch import scratch_folder
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder
from imprint.runtime import peak_memory_bytes
from imprint.training.device_fit import fit_to_device
from imprint.training.fit import PlannedRun
from imprint.training.job import TrainJob, build_job, load_model
from imprint.training.memory import Notify, probe_memory


def probe(job: TrainJob, notify: Notify) -> None:
    """Compute the rows that need most memory, as many as a run computes at once, and discard their gradient."""
    rows = job.split.longest_rows(min(job.rows_at_once, job.recipe.train.batch_size))
    adds = len(rows) < job.recipe.train.batch_size
    probe_memory(job.tuner, job.engine, rows, len(rows), job.token_budget, notify, job.graphs, adds=adds)


def measured_bytes(run: PlannedRun, notify: Notify) -> int:
    """The peak of all tensors in the step of the longest rows of a run that is not started: the base is loaded, and nothing is written.

    On the CPU, the peak of the process. Raises UserError for several processes, and as `imprint train` before its first step.
    """
    engine = run.recipe.engine
    if (engine.processes or 1) * engine.nodes > 1:
        raise UserError(
            Bilingual(
                "--probe: computes in one process, and this recipe trains in several. Add engine.processes=1, or leave --probe out.",
                "--probe 只用一个进程试算，而该配方用多个进程训练：请加 engine.processes=1，或去掉 --probe。",
            )
        )
    process_group = engine.uses_deepspeed_or_fsdp
    with join_world(run.recipe.model.device, process_group=process_group) as world, scratch_folder() as scratch:
        model = load_model(run.recipe)
        recipe, budget = fit_to_device(run.recipe, run.split, model, world, lambda _told: None)
        job = replace(build_job(recipe, RunFolder(scratch), model, run.split, world), token_budget=budget)
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        probe(job, notify)
        return peak_memory_bytes(model.device)
