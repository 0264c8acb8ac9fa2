"""Rows that a model learned outside the training file of its run: in runs that it continues, and as general rows."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from imprint.config import read_recipe
from imprint.data.learned_rows import LearnedRows
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.samples import iterate_samples
from imprint.data.sample import Sample
from imprint.data.section import FROM_BASE, GENERAL_FILE, DataSection
from imprint.data.shapes import Columns
from imprint.evaluate.held_out import WARNED_SHARE, count_learned
from imprint.loading.base import base_folder
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder

MAX_RUNS: Final = 100
"""Most runs that are followed, each of which continues the one before it."""
REMEMBERED: Final = Bilingual(
    "their scores say what the model remembers, not how it answers new questions.", "得分反映的是记忆，不是对新问题的效果。"
)


def learned_before_warnings(
    source: ModelSource, samples: Sequence[Sample], *, adapter: Path | None, base: bool, tools: bool
) -> list[Bilingual]:
    """A warning for each run that the model continues, and each file of general rows, that holds more than a tenth of the rows.

    `adapter`: one that is added to the model; `base`: whether the untouched base of the run answers. Of runs without a record of what they
    learned, and of files that are not there any more, nothing can be said.
    """
    warnings, runs = list[Bilingual](), list(earlier_runs(source, adapter, base=base))
    for folder, _run in runs:
        record = LearnedRows.read(folder.learned_rows)
        if record is not None and (count := record.count(samples)) > WARNED_SHARE * len(samples):
            warnings.append(
                Bilingual(
                    f"{count:,} of these {len(samples):,} rows are rows that {folder.path} learned from, which the model continues: "
                    f"{REMEMBERED.english}",
                    f"这 {len(samples):,} 行中有 {count:,} 行在此前的训练 {folder.path} 中学过：{REMEMBERED.chinese}",
                )
            )
    own = [] if source.run is None or base else [source.run]
    files = dict.fromkeys(file for run in [*own, *(run for _folder, run in runs)] if (file := _general_file(run)) is not None)
    for file in files:
        if (count := count_learned(samples, _general_rows(file, tools=tools))) > WARNED_SHARE * len(samples):
            warnings.append(
                Bilingual(
                    f"{count:,} of these {len(samples):,} rows are in {file}, the general rows that the model learned too: "
                    f"{REMEMBERED.english}",
                    f"这 {len(samples):,} 行中有 {count:,} 行在混入训练的通用数据 {file} 中：{REMEMBERED.chinese}",
                )
            )
    return warnings


def earlier_runs(source: ModelSource, adapter: Path | None, *, base: bool) -> Iterator[tuple[RunFolder, RunConfig]]:
    """The runs whose results a model continues, as its adapter or as its base, the last one first; lost ones are left out."""
    waiting = deque[Path | str | None]([source.path] if source.run is None else [source.run.model.path])
    if not base:
        waiting += [adapter, None if source.run is None else source.run.tune.adapter]
    seen = set[Path]() if source.run is None else {source.folder.resolve()}
    while waiting and len(seen) < MAX_RUNS:
        folder = _run_of(waiting.popleft())
        if folder is None or (path := folder.path.resolve()) in seen:
            continue
        seen.add(path)
        try:
            run = read_recipe(folder.config, [], RunConfig)
        except UserError:
            continue
        yield folder, run
        waiting += [run.tune.adapter, run.model.path]


def _run_of(path: Path | str | None) -> RunFolder | None:
    """The run folder that a path is, or to whose result it leads; None if it is of no run."""
    if path is None:
        return None
    folders = [RunFolder(folder) for folder in (Path(path), *Path(path).parents[:2])]
    if folders[0].config.is_file():
        return folders[0]
    return next((folder for folder in folders[1:] if folder.config.is_file() and folder.learned_rows.is_file()), None)


def _general_file(run: RunConfig) -> Path | None:
    """The file whose rows a run learned as general rows with their answers; None if there is none."""
    mix = run.data.mix_general if isinstance(run.data, DataSection) else None
    if mix is None or mix.asks_base:
        return None
    if mix.rows != FROM_BASE:
        return Path(mix.rows)
    try:
        return None if run.model.commit is not None else base_folder(Path(run.model.path)) / GENERAL_FILE  # the hub's have none
    except UserError:
        return None


def _general_rows(file: Path, *, tools: bool) -> Iterator[Sample]:
    """The good rows of a file of general rows; none if it cannot be read any more."""
    try:
        for _location, row in iterate_samples(file, Columns("content", "summary"), tools=tools):
            if not isinstance(row, BadRowError):
                yield from row
    except UserError:
        return
