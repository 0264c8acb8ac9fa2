"""The held-out rows of a run, which are scored where no file is given, and the check that a given file holds no training rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from imprint.data.dataset import load_held_out
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource
from imprint.messages import Bilingual, UserError

HELD_OUT: Final = "held-out"
"""Name of the folder of answers to the held-out rows."""
WARNED_SHARE: Final = 0.1
"""Share of rows from which a file is said to hold training rows; a few short ones may be equal by chance."""
RAW_TEXT: Final = Bilingual(
    "was trained on raw text, which has no questions. Give rows with --data; `imprint perplexity` measures texts.",
    "该结果是在纯文本上训练的，没有问题可问：请用 --data 给出问答；文本用 imprint perplexity 评估。",
)


@dataclass(frozen=True)
class HeldOutRows:
    """Rows that a run did not learn from."""

    samples: list[Sample]
    """The rows, at least one."""
    source: str
    """Where they are from, as text: the file of held-out rows, or that they are those of the training file."""


def held_out_rows(source: ModelSource, run: RunConfig, limit: int | None, *, tools: bool, raw_text: Bilingual = RAW_TEXT) -> HeldOutRows:
    """The first `limit` held-out rows of a run.

    `tools`: whether the template supports tools. Raises UserError for a run that holds out none, and with `raw_text` for one on raw text.
    """
    if not isinstance(run.data, DataSection):
        raise UserError(Bilingual(f"{source.path}: {raw_text.english}", raw_text.chinese))
    samples = load_held_out(run.data, tools=tools)[:limit]
    if not samples:
        raise UserError(
            Bilingual(f"{source.path}: this run holds out no rows. Give a file with --data.", "该结果没有留出数据：请用 --data 指定文件。")
        )
    file = run.data.dev
    return HeldOutRows(samples, f"{run.data.train}, its held-out rows / 其中留出的行" if file is None else str(file))


def require_run_folder(source: ModelSource) -> RunConfig:
    """The recipe of a run folder, whose held-out rows can be found. Raises UserError for a model folder and for a bundle."""
    if source.run is None or source.kind != "run":
        raise UserError(
            Bilingual(
                f"{source.path}: is no run folder, so it has no held-out rows. Give rows with --data FILE.",
                "这不是训练结果目录，没有留出数据：请用 --data FILE 给出问答数据。",
            )
        )
    return source.run


def training_rows_warning(samples: Sequence[Sample], training: Sequence[Sample]) -> Bilingual | None:
    """A warning if more than a tenth of the rows are rows that the model learned from; None if not."""
    learned = {_content(sample) for sample in training}
    count = sum(_content(sample) in learned for sample in samples)
    if count <= WARNED_SHARE * len(samples):
        return None
    return Bilingual(
        f"{count:,} of these {len(samples):,} rows are rows that the run learned from: their scores say what it remembers, not "
        "how it answers new questions.",
        f"这 {len(samples):,} 行中有 {count:,} 行是训练过的：得分反映的是记忆，不是对新问题的效果。",
    )


def _content(sample: Sample) -> tuple[object, ...]:
    return sample.query, sample.answer, sample.history or (), sample.system, sample.context, sample.tool
