"""`imprint main --do_train ...`: an old command line, unchanged -> train, evaluate, predict -> the files that the original wrote."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from imprint.compat import trainer_files
from imprint.compat.flags import OriginalFlags, read_flags
from imprint.compat.folder import prepare_output
from imprint.compat.settings import check_flags, evaluates, evaluation_section, prefix_file, recipe_from_flags, tunes_all_weights
from imprint.compat.trainer_files import LogSchedule
from imprint.config import as_text, describe
from imprint.data.original import encode_sample_original
from imprint.data.sample import Sample
from imprint.engine.launch import launch, local_processes
from imprint.engine.section import EngineSection
from imprint.engine.world import is_launched
from imprint.evaluate.answering import answer_all
from imprint.evaluate.command import read_data
from imprint.evaluate.results_lock import results_lock
from imprint.evaluate.section import EvaluateSection
from imprint.events import read_events
from imprint.loading.base import base_folder, base_of_run
from imprint.loading.hub.name import hub_name
from imprint.loading.load import load, with_tokenizer_of
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.models.families import read_config
from imprint.runs import RunFolder
from imprint.terminal import say
from imprint.training.job import TrainJob
from imprint.training.run import train_recipe
from imprint.training.state import TrainProgress

ONE_ROW = Bilingual("--per_device_eval_batch_size 1 answers one row at a time; 16 is much faster", "逐条回答较慢，可改为 16")
FLAGS_OF_KNOBS = {
    "data.dev": "--validation_file FILE --evaluation_strategy steps",
    "optimizer.learning_rate": "--learning_rate",
    "train.epochs": "--num_train_epochs",
    "train.steps": "--max_steps",
}
"""Knobs that the verdict names -> the flags of those who use no recipe."""
MANY_ROWS = 100
"""With more rows than this, ONE_ROW is printed."""


def run_original(arguments: Sequence[str]) -> int:
    """Do what ptuning/main.py did with these flags, or list all flags if none is given; returns the exit status.

    Raises UserError for invalid flags, and as `train_recipe`.
    """
    words = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not words:
        say(as_text(describe(OriginalFlags)).rstrip())
        return 0
    flags, notes = read_flags(words)
    check_flags(flags)
    count = process_count(flags)
    if count > 1 and not is_launched():
        return launch(EngineSection(processes=count), count, ["main", *words])
    is_main = int(os.environ.get("RANK", "0")) == 0
    for note in (*notes, *device_notes(flags)) if is_main else ():
        say(note.line)
    if flags.do_train:
        train_original(flags)
    if not is_main:
        return 0
    for split, is_wanted in (("eval", evaluates(flags)), ("predict", flags.do_predict)):
        if is_wanted:
            evaluate_original(flags, split)
    return 0


def process_count(flags: OriginalFlags) -> int:
    """How many processes train on this machine: with DeepSpeed one per GPU, as its launcher starts them; otherwise one."""
    if not flags.do_train or flags.deepspeed is None:
        return 1
    return local_processes(EngineSection(), "cpu" if flags.no_cuda else None, torch.cuda.device_count())


def train_original(flags: OriginalFlags) -> None:
    """Train, with a checkpoint at every save and the results at the end; an unfinished run of the same flags resumes."""
    world_size = int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    recipe = recipe_from_flags(flags, cuda=torch.cuda.is_available(), processes=world_size)
    without_reports = {
        "forgetting": recipe.forgetting.model_copy(update={"measure": False}),
        "train": recipe.train.model_copy(update={"report": False}),
    }
    recipe = recipe.model_copy(update=without_reports)  # the original wrote no such files
    if int(os.environ.get("RANK", "0")) == 0 and (message := prepare_output(flags, recipe)):
        say(message.line)
    train_recipe(recipe, on_save=_checkpoint_writer(flags), flags=FLAGS_OF_KNOBS)


def _checkpoint_writer(flags: OriginalFlags) -> Callable[[TrainJob, TrainProgress], None]:
    """A function that writes the checkpoint of a saved state, and the results of the run at its last step."""

    def write(job: TrainJob, progress: TrainProgress) -> None:
        step, is_last = progress.step, progress.step == job.steps
        if step % flags.save_steps and not is_last:  # the run was stopped between two saves
            return
        schedule = LogSchedule(job.batches, job.steps, flags.logging_steps, flags.logging_first_step)
        events = read_events(job.run)
        trainer_state = trainer_files.trainer_state(events, schedule, step=step, next_rate=job.engine.learning_rate(step + 1))
        folder, base = job.run.path / f"checkpoint-{step}", Path(job.model.name)
        if not job.engine.replicated:
            trainer_files.write_sharded_checkpoint(folder, job.tuner, base, trainer_state, job.engine.gather, is_main=job.world.is_main)
        elif job.world.is_main:
            trainer_files.write_checkpoint(folder, job.tuner, base, trainer_state)
        if not job.world.is_main:
            return
        if flags.save_total_limit:
            trainer_files.keep_newest(job.run.path, flags.save_total_limit)
        if is_last:
            trainer_files.write_training_results(
                job.run, trainer_state, trainer_files.training_results(events, schedule, seconds=progress.seconds)
            )

    return write


def evaluate_original(flags: OriginalFlags, split: str) -> None:
    """Answer and score the rows of `eval` or `predict`, or compute their loss without predict_with_generate."""
    section = evaluation_section(flags, cuda=torch.cuda.is_available())
    data, limit = (flags.validation_file, flags.max_eval_samples) if split == "eval" else (flags.test_file, flags.max_predict_samples)
    assert data is not None, "check_flags() comes first"
    samples = read_data(section, data, limit)
    model = open_original(flags, section)
    batches = -(-len(samples) // section.batch_size)
    if section.batch_size == 1 and flags.predict_with_generate and len(samples) > MANY_ROWS:
        say(ONE_ROW.line)
    started = time.monotonic()
    if flags.predict_with_generate:
        folder = RunFolder(flags.output_dir).evaluations / f"{split}-{data.stem}{f'-first-{limit}' if limit else ''}"
        with results_lock(folder):
            answers = answer_all(model, samples, section, folder)
        scores = {name: mean.value for name, mean in answers.summary.means.items()}
        if split == "predict":
            trainer_files.write_predictions(flags.output_dir, answers.references, answers.predictions)
    else:
        scores = {"loss": mean_loss(model, samples, section)}
    seconds = time.monotonic() - started
    results = trainer_files.evaluation_results(split, scores, seconds=seconds, rows=len(samples), batches=batches)
    trainer_files.write_results(flags.output_dir, split, results)
    say(f"***** {split} metrics *****")
    for name, value in sorted(results.items()):
        say(f"  {name:<28} = {value:>10.4f}" if isinstance(value, float) else f"  {name:<28} = {value:>10}")
    say(f"written to {flags.output_dir}")


def open_original(flags: OriginalFlags, section: EvaluateSection) -> Model:
    """The model to evaluate: the one just trained, the base with a prefix, or a checkpoint of all weights.

    Raises UserError if the flags need a prefix and there is none.
    """
    folder, adapter = _base_of_flags(flags), prefix_file(flags)
    if flags.do_train:
        last = trainer_files.checkpoints(flags.output_dir)[-1]
        folder, adapter = (last, None) if tunes_all_weights(flags) else (folder, last)
    elif adapter is None and flags.pre_seq_len is not None:
        raise UserError(
            Bilingual(
                f"--pre_seq_len {flags.pre_seq_len}: {folder} holds no prefix. Give --ptuning_checkpoint output_dir/checkpoint-N, or take "
                "--pre_seq_len out to evaluate the model as it is.",
                f"--pre_seq_len {flags.pre_seq_len}：缺少前缀：请给出 --ptuning_checkpoint，或去掉 --pre_seq_len。",
            )
        )
    model = load(folder, adapter=adapter, quantize=section.quantize, dtype=section.dtype, device=section.device)
    return model if model.has_tokenizer else _with_tokenizer(model, folder)


def _base_of_flags(flags: OriginalFlags) -> Path:
    """The folder of the base; of a model of the hub that was just trained, the commit that the run took."""
    name = flags.model_name_or_path
    if hub_name(name) is None:
        return Path(name)
    return base_folder(base_of_run(RunFolder(flags.output_dir)) if flags.do_train else name)


def _with_tokenizer(model: Model, folder: Path) -> Model:
    """The model of a checkpoint that was saved without tokenizer files, with those of the base that its config.json names."""
    fields = read_config(folder)
    base_name = fields.get("_name_or_path")
    base = Path(base_name) if isinstance(base_name, str) and base_name else folder.parent
    complete = with_tokenizer_of(base, model, fields)
    if complete is None:
        file = model.tokenizer_file
        raise UserError(
            Bilingual(
                f"--model_name_or_path {folder}: has no tokenizer ({file}), and {str(base_name)!r}, which it was made from, is not here. "
                f"Copy the official {file} into {folder}.",
                f"--model_name_or_path {folder}：该目录缺少 {file}：请从官方模型目录复制过来。",
            )
        )
    return complete


@torch.no_grad()
def mean_loss(model: Model, samples: Sequence[Sample], section: EvaluateSection) -> float:
    """The mean of the batch losses, weighted by rows, as the Trainer averages."""
    source, target, text = section.max_source_length, section.max_target_length, section.source_prefix
    assert source is not None, "evaluation_section() sets it"
    assert target is not None
    rows = [
        encode_sample_original(model.template, sample, max_source_length=source, max_target_length=target, source_prefix=text or "")
        for sample in samples
    ]
    total = 0.0
    for start in range(0, len(rows), section.batch_size):
        batch = rows[start : start + section.batch_size]
        total += len(batch) * float(model.loss([list(row.ids) for row in batch], [list(row.labels) for row in batch]))
    return total / len(rows)


def device_notes(flags: OriginalFlags) -> list[Bilingual]:
    """A note if there are GPUs that are not used."""
    gpus = 0 if flags.no_cuda else torch.cuda.device_count()
    if gpus < 2 or flags.deepspeed is not None:
        return []
    english = f"{gpus} GPUs are visible, one is used: cuda:0; CUDA_VISIBLE_DEVICES=1 would choose another"
    return [Bilingual(english, f"可见 {gpus} 块 GPU，只使用第一块")]
