"""Opens a run folder: for one process at a time, with the recipe that began it, at its newest good state."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imprint.config import describe, dump, read_recipe
from imprint.data.dataset import DataSplits
from imprint.data.token_file import TokenFileRows
from imprint.engine.world import SINGLE, World
from imprint.events import read_rescues
from imprint.files import remove_leftovers
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder, mark_damaged, remove_state
from imprint.training.recipe import Recipe
from imprint.training.state import DamagedStateError, SavedState, TrainState, read_saved_state, read_train_state

Notify = Callable[[Bilingual], None]
LENGTH = {"train.steps", "train.epochs"}


@contextmanager
def open_run(recipe: Recipe, notify: Notify, world: World = SINGLE) -> Iterator[RunFolder]:
    """Hold the run folder of a recipe; one that was begun must have been begun by it, but for knobs that change no number.

    Of several processes the leader holds it for all. Raises UserError where the others do not see the same folder.
    """
    with world.main_context(_held(recipe, notify)):
        run = RunFolder(recipe.output)
        world.on_all(lambda: _refuse_other_disk(run))
        yield run


def _refuse_other_disk(run: RunFolder) -> None:
    if not run.path.is_dir():
        raise UserError(
            Bilingual(
                f"{run.path.resolve()}: is on the first machine alone. Give an `output` on a disk that all machines share.",
                "输出目录只在第一台机器上：请把 output 放在所有机器共享的磁盘上。",
            )
        )


@contextmanager
def _held(recipe: Recipe, notify: Notify) -> Iterator[None]:
    run = RunFolder(recipe.output)
    with run.lock():
        remove_leftovers(run.path)
        begun = run.log.is_file() or run.states()
        if begun and not run.config.is_file():
            raise UserError(
                Bilingual(
                    f"{run.path}: a run was begun here, but its config.yaml is gone. Put it back, or choose another folder (output=...).",
                    "该目录中的训练缺少 config.yaml：请放回该文件，或换一个目录（output=...）。",
                )
            )
        if begun and run.config.read_text(encoding="utf-8") != dump(recipe):
            _compare(read_recipe(run.config, [], Recipe), recipe, run, notify)
        if begun and run.states() and not run.log.is_file():
            notify(
                Bilingual(
                    f"{run.log} is gone: it goes on with the steps from here; nothing else depends on it",
                    "日志文件不见了，将从这一步继续记录",
                )
            )
        yield


def _compare(before: Recipe, now: Recipe, run: RunFolder, notify: Notify) -> None:
    """Say which knobs of the recipe have changed. Raises UserError for those that may not."""
    old, new = _knobs(before), _knobs(now)
    changed = {name: (old.get(name), new.get(name)) for name in old | new if old.get(name) != new.get(name)}
    changeable = {knob.path for knob in describe(Recipe) if knob.may_change} | (_free_micro_batch(now) & _free_micro_batch(before))
    texts = {name: f"{name}: {_as_yaml(was)} -> {_as_yaml(is_now)}" for name, (was, is_now) in changed.items()}
    if refused := [texts[name] for name in changed if name not in changeable]:
        raise UserError(
            Bilingual(
                f"{run.path}: was begun with another recipe: {'; '.join(refused)}. Take back the change, or choose another folder "
                "(output=...). While a run goes on, only its length (train.steps, train.epochs), train.checkpointing, the "
                "guard, the engine, "
                "and how often it saves, evaluates and answers may change.",
                "该目录的训练使用另一份配方：请改回，或换一个目录（output=...）。训练中途只可修改步数、train.checkpointing、guard、engine "
                "以及保存、评估和回答的频率。",
            )
        )
    if changed:
        listed = "; ".join(texts.values())
        notify(Bilingual(f"changed since the run began: {listed}", f"与开始时不同：{listed}"))
    if any(name.startswith("engine.") for name in changed):
        notify(
            Bilingual(
                "other processes compute other rows together, with one mask or one mean: losses differ a little",
                "微批的组成不同，损失略有差异",
            )
            if _depends_on_micro_batches(now)
            else Bilingual(
                "the sums of other processes round otherwise: losses agree to about six digits",
                "进程不同，求和舍入略有差异",
            )
        )
    if LENGTH & set(changed):
        notify(Bilingual("the learning rate follows the schedule of the new length from here on", "学习率从此按新的总步数变化"))


def _as_yaml(value: object) -> str:
    """A value as a recipe says it: null, true and false."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _free_micro_batch(recipe: Recipe) -> set[str]:
    """The size of a micro-batch, where no number depends on it."""
    return {"train.micro_batch_size"} if recipe.train.group_by_length and not _depends_on_micro_batches(recipe) else set()


def _depends_on_micro_batches(recipe: Recipe) -> bool:
    """Whether the loss of a step depends on which of its rows are computed together."""
    return bool(recipe.tune.dropout) or recipe.train.loss_average == "micro_batch"


def _knobs(recipe: Recipe) -> dict[str, Any]:
    """Every knob with its value, under its dotted name."""
    found: dict[str, Any] = {}

    def gather(values: Mapping[str, Any], place: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                gather(value, f"{place}{name}.")
            else:
                found[place + name] = value

    gather(recipe.model_dump(mode="json"), "")
    return found


def newest_state(run: RunFolder, notify: Notify, world: World = SINGLE) -> SavedState | None:
    """The newest state that is good; one that a rescue gave up is deleted, a damaged one is set aside and told. None: begin anew.

    Of several processes the leader looks for it, and compares it with its checksums.
    """
    found: list[SavedState] = []

    def find() -> Path | None:
        found.extend(_newest(run, notify))
        return found[0].folder if found else None

    folder = world.on_main(find)
    return found[0] if found else read_saved_state(folder, verify=False) if folder else None


def _newest(run: RunFolder, notify: Notify) -> list[SavedState]:
    """That state, or nothing."""
    rescues = read_rescues(run)
    damaged = False
    for folder in run.states():
        try:
            state = read_train_state(folder)
            if any(state.step > rescue.back_to for rescue in rescues[state.rescues :]):
                remove_state(folder)
                continue
            return [read_saved_state(folder)]
        except DamagedStateError as error:
            damaged = True
            place = mark_damaged(folder)
            notify(
                Bilingual(
                    f"{folder}: this saved state is damaged ({error}); it is now {place.name}, and the run goes on from the one before.",
                    f"保存的状态已损坏，已改名为 {place.name}；将从更早的状态继续。",
                )
            )
    if damaged:
        notify(Bilingual("no undamaged state is left: the run begins again from its start", "没有完好的状态，从头开始"))
    return []


def refuse_other_rows(state: TrainState, digest: str, files: list[str]) -> None:
    """Raise UserError where the rows are not those that the run was begun with."""
    if state.data != digest:
        raise UserError(
            Bilingual(
                f"{' or '.join(files)}: is not what this run began with. Put the old file back, or choose another folder (output=...).",
                "训练数据已不是开始时的内容：请放回原文件，或换一个目录（output=...）。",
            )
        )


def data_digest(split: DataSplits) -> str:
    """What the encoded rows are recognised by: those learned from, the general ones too, and those held out."""
    digest = hashlib.sha256()
    for rows in (split.train, split.general, split.dev):
        if isinstance(rows, TokenFileRows):
            digest.update(rows.digest.encode())
            continue
        for row in rows:
            digest.update(repr((row.ids, row.labels)).encode())
    return digest.hexdigest()[:16]
