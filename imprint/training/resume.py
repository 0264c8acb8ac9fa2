"""Opens a run folder to start or resume a run: locks it, compares the recipe and the data, and finds the newest good state."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

from imprint.config import describe, dump, read_recipe, recipe_text
from imprint.data.dataset import DataSplits
from imprint.data.section import DataSection
from imprint.data.token_file import TokenFileRows
from imprint.engine.world import SINGLE, World
from imprint.events import Finished, last_start, read_events, read_rescues
from imprint.files.atomic import remove_leftovers
from imprint.loading.base import BaseReference, fetch
from imprint.loading.hub.name import hub_name, parse_name
from imprint.loading.load import writes_date
from imprint.loading.run import RunConfig
from imprint.loading.section import ModelSection
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder, mark_damaged, remove_state
from imprint.training.job import TrainJob
from imprint.training.recipe import Recipe
from imprint.training.rescue import apply_rescues
from imprint.training.state import DamagedStateError, SavedState, TrainProgress, read_progress, read_saved_state

NOTHING_SAVED = Bilingual(
    "the rows are not those with which this run was started. Nothing was saved before they changed: it begins anew with these.",
    "训练数据与上次开始时不同；此前没有保存任何状态，因此用现在的数据从头开始。",
)
Notify = Callable[[Bilingual], None]
LENGTH_KNOBS = {"train.steps", "train.epochs"}
"""The knobs that determine the number of steps."""
CHOSEN_KNOBS = {"train.checkpointing"}
"""The knobs that are chosen for the device at every start where the recipe leaves them null."""


@contextmanager
def open_run(recipe: Recipe, notify: Notify, world: World = SINGLE) -> Iterator[RunFolder]:
    """Lock the run folder of a recipe. A run that is resumed must have the same recipe, except for knobs that may change.

    The main process holds the lock. Raises UserError if another process trains there, if the recipe differs, or if the other processes do
    not see the folder.
    """
    with world.main_context(_lock_folder(recipe, notify)):
        run = RunFolder(recipe.output)
        world.on_all(lambda: _refuse_unshared_folder(run))
        yield run


def check_output(recipe: Recipe) -> None:
    """Raise UserError for a run folder that `open_run` would refuse, before the hub is asked and anything is loaded; for one process."""
    made = [folder for folder in recipe.output.parents if not folder.exists()]
    try:
        with _lock_folder(_as_begun(recipe), lambda _notice: None):
            pass
    finally:
        for folder in made:  # the nearest first
            with suppress(OSError):
                folder.rmdir()


def _as_begun(recipe: Recipe) -> Recipe:
    """The recipe with what its run found out when it began: the commit and the date of its base, and the length limits."""
    before = _started_with(RunFolder(recipe.output))
    if before is None:
        return recipe
    commit = before.commit if before.path == recipe.model.path else None
    found = {"commit": recipe.model.commit or commit, "date": recipe.model.date or before.date}
    data = recipe.data.model_copy(update=_first_limits(recipe))
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=found), "data": data})


def with_commit(recipe: Recipe) -> Recipe:
    """The recipe with `model.commit` set if its base is a model of the hub, which is downloaded unless it is there.

    A run that is resumed takes the commit with which it began. Raises UserError for a commit of what is no model of the hub.
    """
    model, before = recipe.model, _started_with(RunFolder(recipe.output))
    commit = model.commit or (before.commit if before is not None and before.path == model.path else None)
    name = hub_name(model.path) if commit is None else parse_name(model.path)
    if name is None or (commit is not None and Path(model.path).exists()):
        if model.commit is not None:
            raise UserError(
                Bilingual(
                    f"model.commit: {model.commit}, but {model.path} is no model of the hub. Leave it out, or give owner/name.",
                    f"model.commit：{model.commit}，但 {model.path} 不是模型站上的模型：请去掉它，或写 owner/name。",
                )
            )
        return recipe
    found = fetch(name if commit is None else name.at(commit))
    return recipe.model_copy(update={"model": model.model_copy(update={"commit": found.commit})})


def _started_with(run: RunFolder) -> ModelSection | None:
    """The base with which a run was started; None if it was not."""
    return read_recipe(run.config, [], BaseReference).model if _has_begun(run) else None


def with_start_date(recipe: Recipe, world: World = SINGLE) -> Recipe:
    """The recipe with `model.date` set if the base's chat template writes today's date: the day on which the run began.

    So a run that is resumed learns the same rows. Raises UserError for a date that the template does not write.
    """
    date = world.on_main(lambda: _start_date(recipe))
    commit = world.on_main(lambda: recipe.model.commit)  # a branch may have moved while the processes asked for it
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"date": date, "commit": commit})})


def _start_date(recipe: Recipe) -> str | None:
    model = recipe.model
    if model.date is None and (before := _started_with(RunFolder(recipe.output))) is not None:
        return before.date
    dated = writes_date(model.location, model.template)
    if model.date is not None and not dated:
        raise UserError(
            Bilingual(
                f"model.date: {model.date}, but the template of {model.path} writes no date. Leave it out.",
                f"model.date：{model.date}，但 {model.path} 的模板不写日期：请去掉它。",
            )
        )
    return model.date or (date.today().isoformat() if dated else None)


def with_first_limits(recipe: Recipe, world: World = SINGLE) -> Recipe:
    """The recipe with the length limits that were chosen from the rows when the run began, where it gives none itself."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=world.on_main(lambda: _first_limits(recipe)))})


def _first_limits(recipe: Recipe) -> dict[str, int]:
    """The limits that the recipe leaves to the rows, as its run has them; none before the run has begun."""
    run, data = RunFolder(recipe.output), recipe.data
    unknown = [name for name in ("max_source_length", "max_target_length") if getattr(data, name) is None]
    if not unknown or not _has_begun(run):
        return {}
    begun = read_recipe(run.config, [], RunConfig).data
    return {name: getattr(begun, name) for name in unknown} if isinstance(begun, DataSection) else {}


def _has_begun(run: RunFolder) -> bool:
    """Whether a folder holds a run and its recipe."""
    return run.config.is_file() and (run.log.is_file() or bool(run.states()))


def _refuse_unshared_folder(run: RunFolder) -> None:
    """Raise UserError if this machine does not see the run folder of the first one."""
    if not run.path.is_dir():
        raise UserError(
            Bilingual(
                f"{run.path.resolve()}: is on the first machine alone. Give an `output` on a disk that all machines share.",
                f"{run.path.resolve()}：输出目录只在第一台机器上：请把 output 放在所有机器共享的磁盘上。",
            )
        )


@contextmanager
def _lock_folder(recipe: Recipe, notify: Notify) -> Iterator[None]:
    """Hold the lock, after clean-up and checks; for the main process only."""
    run = RunFolder(recipe.output)
    with run.lock():
        remove_leftovers(run.path)
        started = run.log.is_file() or run.states()
        if started and not run.config.is_file():
            raise UserError(
                Bilingual(
                    f"{run.path}: a run was started here, but its config.yaml is gone. Put it back, or choose another folder (output=...).",
                    f"{run.path}：该目录中的训练缺少 config.yaml：请放回该文件，或换一个目录（output=...）。",
                )
            )
        if started and recipe_text(run.config) != dump(recipe):
            _check_changes(read_recipe(run.config, [], Recipe), recipe, run, notify)
        if started and run.states() and not run.log.is_file():
            notify(
                Bilingual(
                    f"{run.log} is missing: a new log begins here. The weights do not depend on it; the guard, the loss curve and the "
                    "verdict know only what is logged from now on",
                    "日志文件不见了，将从此处重新记录；权重不受影响，但 guard、损失曲线和结论只知道此后的内容",
                )
            )
        yield


def _check_changes(before: Recipe, now: Recipe, run: RunFolder, notify: Notify) -> None:
    """Notify of the knobs that have changed since the run was started. Raises UserError for those that must not change."""
    old, new = _flatten(before), _flatten(now)
    changed = {name: (old.get(name), new.get(name)) for name in old | new if old.get(name) != new.get(name)}
    changed = {name: values for name, values in changed.items() if not (name in CHOSEN_KNOBS and values[1] is None)}
    changeable = _changeable_knobs() | (_changeable_micro_batch(now) & _changeable_micro_batch(before))
    texts = {name: f"{name}: {_as_yaml(old_value)} -> {_as_yaml(new_value)}" for name, (old_value, new_value) in changed.items()}
    if refused := [texts[name] for name in changed if name not in changeable]:
        raise UserError(
            Bilingual(
                f"{run.path}: was started with another recipe: {'; '.join(refused)}. Take back the change, or choose another folder "
                f"(output=...). A resumed run may change only {', '.join(_shortened(changeable))}.",
                f"{run.path}：该目录的训练使用另一份配方：{'; '.join(refused)}。请改回，或换一个目录（output=...）。"
                f"训练中途只可修改 {'、'.join(_shortened(changeable))}。",
            )
        )
    if changed:
        listed = "; ".join(texts.values())
        notify(Bilingual(f"changed since the run began: {listed}", f"与开始时不同：{listed}"))
    if any(name.startswith("engine.") for name in changed):
        notify(
            Bilingual(
                "with other processes, other rows share a micro-batch, its dropout mask and its mean: losses differ a little",
                "微批的组成不同，损失略有差异",
            )
            if _depends_on_micro_batches(now)
            else Bilingual(
                "with other processes, sums are rounded differently: losses agree to about six digits",
                "进程不同，求和舍入略有差异",
            )
        )
    if LENGTH_KNOBS & set(changed):
        notify(Bilingual("the learning rate follows the schedule of the new length from here on", "学习率从此按新的总步数变化"))


def _changeable_knobs() -> set[str]:
    """The knobs that a resumed run may change, whatever the recipe."""
    return {knob.path for knob in describe(Recipe) if knob.may_change}


def _shortened(knobs: set[str]) -> list[str]:
    """These knobs in alphabetical order; a section all of whose knobs are among them is one entry, such as `engine.*`."""
    paths = [knob.path for knob in describe(Recipe)]
    sections = {path.partition(".")[0] for path in paths if "." in path} - {path.partition(".")[0] for path in paths if path not in knobs}
    return sorted({f"{name.partition('.')[0]}.*" if name.partition(".")[0] in sections else name for name in knobs})


def _as_yaml(value: object) -> str:
    """A value as it is written in a recipe: null, true, false."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _changeable_micro_batch(recipe: Recipe) -> set[str]:
    """The knob of the micro-batch size, if no loss depends on it; else nothing."""
    return {"train.micro_batch_size"} if recipe.train.group_by_length and not _depends_on_micro_batches(recipe) else set()


def _depends_on_micro_batches(recipe: Recipe) -> bool:
    """Whether the loss of a step depends on how its rows are split into micro-batches."""
    return bool(recipe.tune.dropout) or recipe.train.loss_average == "micro_batch"


def _flatten(recipe: Recipe) -> dict[str, Any]:
    """The value of every knob, by dotted name."""
    flat: dict[str, Any] = {}

    def add(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    add(recipe.model_dump(mode="json"), "")
    return flat


def newest_state(run: RunFolder, notify: Notify, world: World = SINGLE) -> SavedState | None:
    """The newest state to resume from, or None to start from the beginning.

    States that a rescue discarded are deleted; damaged ones are renamed, with a notice. The main process searches and verifies checksums.
    """
    newest: SavedState | None = None

    def find() -> Path | None:
        nonlocal newest
        newest = _find_newest(run, notify)
        return None if newest is None else newest.folder

    folder = world.on_main(find)
    if newest is not None or folder is None:
        return newest
    return read_saved_state(folder, verify=False)


def _find_newest(run: RunFolder, notify: Notify) -> SavedState | None:
    """`newest_state` in the main process."""
    rescues = read_rescues(run)
    damaged = False
    for folder in run.states():
        try:
            progress = read_progress(folder)
            if any(progress.step > rescue.back_to for rescue in rescues[progress.rescues :]):
                remove_state(folder)
                continue
            return read_saved_state(folder)
        except DamagedStateError as error:
            damaged = True
            renamed = mark_damaged(folder)
            notify(
                Bilingual(
                    f"{folder}: this saved state is damaged ({error}); it is now {renamed.name}, and an earlier one is looked for.",
                    f"保存的状态已损坏，已改名为 {renamed.name}；将寻找更早的状态。",
                )
            )
    refuse_retraining(run)
    if damaged:
        notify(Bilingual("no undamaged state is left: the run begins again from its start", "没有完好的状态，从头开始"))
    return None


def restore_progress(job: TrainJob, notify: Notify) -> TrainProgress:
    """Restore the newest good state; returns the progress, or a new one if there is no state. Raises UserError if it does not fit."""
    digest = data_digest(job.split)
    progress = TrainProgress(data=digest)
    saved, rescues = newest_state(job.run, notify, job.world), read_rescues(job.run)
    before = saved.progress.data if saved is not None else job.world.on_main(lambda: logged_digest(job.run)) or digest
    if saved is not None or rescues:
        refuse_changed_data(before, digest, job.recipe.data.files)
    elif before != digest:
        notify(NOTHING_SAVED)
    if saved is not None:
        progress = saved.restore(job.engine)
        if progress.step > job.steps:
            raise UserError(
                Bilingual(
                    f"train.steps: {job.run.path} has already done {progress.step} steps. Give at least that many.",
                    f"train.steps：{job.run.path} 已训练 {progress.step} 步，请给出不小于此的步数。",
                )
            )
    progress = apply_rescues(progress, rescues)
    job.engine.rate_scale = progress.rate_scale
    if progress.piece_tokens is not None and not job.recipe.engine.uses_deepspeed_or_fsdp:  # these compute whole micro-batches
        job.token_budget.tokens = progress.piece_tokens
    if progress.merged_micro_batches is not None and job.recipe.train.merge_micro_batches:
        job.token_budget.micro_batches = progress.merged_micro_batches  # with the same dropout masks as before
    return progress


def refuse_retraining(run: RunFolder) -> None:
    """Raise UserError for a finished run without a saved state: it would be trained again from its start, over its result."""
    if run.verdict.is_file() or any(isinstance(event, Finished) for event in read_events(run)):
        raise UserError(
            Bilingual(
                f"{run.path}: this run is finished, and none of its saved states is left, so nothing can be continued. Training it again "
                "would replace its result. Choose another folder (output=...), or delete this one first.",
                f"{run.path}：该目录的训练已完成，且没有留下可用的状态，无法继续；重新训练会覆盖其结果。请换一个目录（output=...），或先删除该目录。",
            )
        )


def refuse_changed_data(before: str, digest: str, files: list[str]) -> None:
    """Raise UserError if the digest of the encoded rows is not the one `before`, with which the run was started."""
    if before != digest:
        raise UserError(
            Bilingual(
                f"{' or '.join(files)}: is not what this run began with. Put the old file back, or choose another folder (output=...).",
                f"{' or '.join(files)}：训练数据已不是开始时的内容：请放回原文件，或换一个目录（output=...）。",
            )
        )


def logged_digest(run: RunFolder) -> str | None:
    """The digest of the encoded rows with which the run was started, as its log has it; None if it does not say."""
    start = last_start(read_events(run))
    return start.data or None if start is not None else None


def data_digest(split: DataSplits) -> str:
    """A digest of all encoded rows: training rows, general rows and held-out rows."""
    digest = hashlib.sha256()
    for rows in (split.train, split.general, split.dev):
        if isinstance(rows, TokenFileRows):
            digest.update(rows.digest.encode())
            continue
        for row in rows:
            digest.update(repr((row.ids, row.labels)).encode())
    return digest.hexdigest()[:16]
