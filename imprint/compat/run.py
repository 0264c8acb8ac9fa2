"""`imprint main --do_train ...`: an old command line as it is -> train, evaluate, predict -> the files that it wrote."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from imprint.compat import layout
from imprint.compat.flags import OriginalFlags, read_flags
from imprint.compat.folder import make_ready
from imprint.compat.layout import Pace
from imprint.compat.settings import asked_of, check, evaluates, prefix_file, recipe_of, tunes_all
from imprint.config import as_text, describe
from imprint.data.original import encode_sample_original
from imprint.data.sample import Sample
from imprint.engine.launch import launch, local_processes
from imprint.engine.section import EngineSection
from imprint.engine.world import is_launched
from imprint.errors import UserError
from imprint.evaluate.answering import answer_all
from imprint.evaluate.command import read_data
from imprint.evaluate.section import EvaluateSection
from imprint.files import read_jsonl
from imprint.forgetting.section import ForgettingSection
from imprint.loading.base import EMBEDDED
from imprint.loading.load import load
from imprint.messages import Bilingual
from imprint.model import Model
from imprint.models.families import read_config
from imprint.runs import RunFolder
from imprint.templates import read_template
from imprint.tokenizers import read_tokenizer, tokenizer_file
from imprint.training.job import TrainJob
from imprint.training.run import train_recipe
from imprint.training.state import TrainState

ONE_ROW = "--per_device_eval_batch_size 1 answers one row at a time; 16 is much faster / 逐条回答较慢，可改为 16"
MANY_ROWS = 100


def run_original(arguments: Sequence[str]) -> int:
    """Do what ptuning/main.py did with these flags, or list them where there are none; returns the exit status.

    Raises UserError for flags that cannot be followed, and as `train_recipe`.
    """
    words = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not words:
        _say(as_text(describe(OriginalFlags)).rstrip())
        return 0
    flags, answered = read_flags(words)
    check(flags)
    here = processes(flags)
    if here > 1 and not is_launched():
        return launch(EngineSection(processes=here), here, ["main", *words])
    leads = int(os.environ.get("RANK", "0")) == 0
    for sentence in (*answered, *about_devices(flags)) if leads else ():
        _say(sentence)
    if flags.do_train:
        train_original(flags)
    if not leads:
        return 0
    for split, asked in (("eval", evaluates(flags)), ("predict", flags.do_predict)):
        if asked:
            evaluate_original(flags, split)
    return 0


def processes(flags: OriginalFlags) -> int:
    """How many processes train on this machine: one for each GPU where DeepSpeed is asked for, as its launcher started them."""
    if not flags.do_train or flags.deepspeed is None:
        return 1
    return local_processes(EngineSection(), "cpu" if flags.no_cuda else None, torch.cuda.device_count())  # each takes rows of its own


def train_original(flags: OriginalFlags) -> None:
    """Train, with a checkpoint at every save and the figures at the end; an unfinished run of the same flags is gone on with."""
    together = int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    asked = recipe_of(flags, cuda=torch.cuda.is_available(), processes=together)
    quiet = {"forgetting": ForgettingSection(measure=False), "train": asked.train.model_copy(update={"report": False})}
    recipe = asked.model_copy(update=quiet)  # the original wrote no such files
    if int(os.environ.get("RANK", "0")) == 0 and (done := make_ready(flags, recipe)):
        _say(done)
    train_recipe(recipe, on_save=_writer(flags))


def _writer(flags: OriginalFlags) -> Callable[[TrainJob, TrainState], None]:
    """What is written beside a saved state: its checkpoint, and at the last step the figures of the run."""

    def write(job: TrainJob, state: TrainState) -> None:
        step, last = state.step, state.step == job.steps
        if step % flags.save_steps and not last:  # stopped in between
            return
        pace = Pace(job.batches, job.steps, flags.logging_steps, flags.logging_first_step)
        lines = read_jsonl(job.run.log)
        trainer_state = layout.trainer_state(lines, pace, step=step, next_rate=job.engine.learning_rate(step + 1))
        place, base = job.run.path / f"checkpoint-{step}", Path(job.model.name)
        if not job.engine.replicated:
            layout.write_whole(place, job.tuner, base, trainer_state, job.engine.gather, is_main=job.world.is_main)
        elif job.world.is_main:
            layout.write_checkpoint(place, job.tuner, base, trainer_state)
        if not job.world.is_main:
            return
        if flags.save_total_limit:
            layout.keep_newest(job.run.path, flags.save_total_limit)
        if last:
            layout.finish_training(job.run, trainer_state, layout.training_figures(lines, pace, seconds=state.seconds))

    return write


def evaluate_original(flags: OriginalFlags, split: str) -> None:
    """Answer and score the rows of `eval` or `predict`, or measure their loss where answers are not asked for."""
    section = asked_of(flags, cuda=torch.cuda.is_available())
    data, limit = (flags.validation_file, flags.max_eval_samples) if split == "eval" else (flags.test_file, flags.max_predict_samples)
    assert data is not None, "check() comes first"
    samples = read_data(section, data, limit)
    model = open_original(flags, section)
    batches = -(-len(samples) // section.batch_size)
    if section.batch_size == 1 and flags.predict_with_generate and len(samples) > MANY_ROWS:
        _say(ONE_ROW)
    began = time.monotonic()
    if flags.predict_with_generate:
        place = RunFolder(flags.output_dir).evaluations / f"{split}-{data.stem}{f'-first-{limit}' if limit else ''}"
        answers = answer_all(model, samples, section, place)
        scores = {name: mean.value for name, mean in answers.summary.means.items()}
        if split == "predict":
            layout.write_predictions(flags.output_dir, answers.references, answers.predictions)
    else:
        scores = {"loss": mean_loss(model, samples, section)}
    seconds = time.monotonic() - began
    figures = layout.evaluation_figures(split, scores, seconds=seconds, rows=len(samples), batches=batches)
    layout.write_results(flags.output_dir, split, figures)
    _say(f"***** {split} metrics *****")
    for name, value in sorted(figures.items()):
        _say(f"  {name:<28} = {value:>10.4f}" if isinstance(value, float) else f"  {name:<28} = {value:>10}")
    _say(f"written to {flags.output_dir}")


def open_original(flags: OriginalFlags, section: EvaluateSection) -> Model:
    """The model to evaluate: what was just trained, or the base with a prefix, or a checkpoint of all weights.

    Raises UserError where a prefix is asked for and there is none.
    """
    folder, adapter = Path(flags.model_name_or_path), prefix_file(flags)
    if flags.do_train:
        last = layout.checkpoints(flags.output_dir)[-1]
        folder, adapter = (last, None) if tunes_all(flags) else (folder, last)
    elif adapter is None and flags.pre_seq_len is not None:
        raise UserError(
            Bilingual(
                f"--pre_seq_len {flags.pre_seq_len}: {folder} holds no prefix. Give --ptuning_checkpoint output_dir/checkpoint-N, or take "
                "--pre_seq_len out to evaluate the model as it is.",
                "缺少前缀：请给出 --ptuning_checkpoint，或去掉 --pre_seq_len。",
            )
        )
    model = load(folder, adapter=adapter, quantize=section.quantize, dtype=section.dtype, device=section.device)
    return model if str(folder) == EMBEDDED or read_tokenizer(folder, read_config(folder)) else _with_tokenizer(model, folder)


def _with_tokenizer(model: Model, folder: Path) -> Model:
    """The model of a checkpoint that was saved without tokenizer files, with those of the base that its config.json names."""
    named = read_config(folder).get("_name_or_path")
    home = Path(named) if isinstance(named, str) and named else folder.parent
    fields = read_config(folder)
    template = read_template(home, fields) if home.is_dir() else None
    if template is None:
        file = tokenizer_file(fields)
        raise UserError(
            Bilingual(
                f"--model_name_or_path {folder}: has no tokenizer ({file}), and {str(named)!r}, which it was made from, is not here. "
                f"Copy the official {file} into {folder}.",
                f"该目录缺少 {file}：请从官方模型目录复制过来。",
            )
        )
    whole = Model(model.network, template, model.name)
    whole.adapter, whole.description = model.adapter, model.description
    return whole


@torch.no_grad()
def mean_loss(model: Model, samples: Sequence[Sample], section: EvaluateSection) -> float:
    """The mean over rows of the loss of the batch that each is in, as the Trainer averages."""
    source, target, before = section.max_source_length, section.max_target_length, section.source_prefix
    assert source is not None, "asked_of() fills what was left open"
    assert target is not None
    rows = [
        encode_sample_original(model.template, sample, max_source_length=source, max_target_length=target, source_prefix=before or "")
        for sample in samples
    ]
    total = 0.0
    for start in range(0, len(rows), section.batch_size):
        batch = rows[start : start + section.batch_size]
        total += len(batch) * float(model.loss([list(row.ids) for row in batch], [list(row.labels) for row in batch]))
    return total / len(rows)


def about_devices(flags: OriginalFlags) -> list[str]:
    """What to say of GPUs that are there and not used."""
    gpus = 0 if flags.no_cuda else torch.cuda.device_count()
    if gpus < 2 or flags.deepspeed is not None:
        return []
    return [f"{gpus} GPUs are visible, one is used: cuda:0; CUDA_VISIBLE_DEVICES=1 would choose another / 可见 {gpus} 块 GPU，只使用第一块"]


def _say(sentence: str) -> None:
    print(sentence, flush=True)  # noqa: T201
