"""`imprint score PREDICTIONS`: the answers of any tool, scored under named protocols side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from imprint.data.readers.predictions import Predictions, read_predictions
from imprint.errors import UserError
from imprint.files import write_json
from imprint.loading.load import open_tokenizer
from imprint.loading.source import resolve_source
from imprint.metrics.means import Summary, summary
from imprint.metrics.protocols import PROTOCOLS, Protocol, get_protocol
from imprint.metrics.rates import FailureRates, failure_rates, failure_warnings
from imprint.metrics.scores import RowScore, score_protocols
from imprint.metrics.task_scores import METRIC_BY_NAME, TASK_PROTOCOLS, TaskScores, score_by_protocol
from imprint.progress import Progress
from imprint.tokenizers import Tokenizer

CHUNK: Final = 100
"""Rows that are scored between two looks at the clock."""


@dataclass(frozen=True)
class Asked:
    """A protocol as it was asked for: `chatglm-6b`, or `chatglm-6b:64:MODEL` to cut the references as the original does."""

    protocol: Protocol
    """What is counted."""
    cut_to: int | None
    """Most tokens of a reference; None takes the references as the file has them."""
    tokenizer: Tokenizer | None
    """Whose tokens these are, where references are cut."""

    @property
    def label(self) -> str:
        """What the column of its scores is called."""
        return self.protocol.name if self.cut_to is None else f"{self.protocol.name}:{self.cut_to + 2}"

    def references(self, texts: Sequence[str]) -> list[str]:
        """The references that are scored against."""
        if self.tokenizer is None:
            return list(texts)
        return [self.tokenizer.decode(self.tokenizer.encode(text)[: self.cut_to]) for text in texts]


def score_command(file: Path, *, protocols: Sequence[str] | None, output: Path | None) -> None:
    """Score a file of predictions under the protocols asked for, or under all for texts, and print and write what they say."""
    names = list(dict.fromkeys(protocols or PROTOCOLS))
    asked = {one.label: one for one in (_asked(name) for name in names if name not in TASK_PROTOCOLS)}
    found = read_predictions(file)
    if output is not None and output.exists() and output.samefile(file):
        raise UserError(f"{output}: is the file of predictions itself. Give --output another name.")
    judged = {name: score_by_protocol(name, found.predictions, found.references) for name in names if name in TASK_PROTOCOLS}
    summaries = {label: summary(rows, asked[label].protocol.name) for label, rows in _scored(found, asked).items()} if asked else {}
    summaries |= {name: one.summary for name, one in judged.items()}
    rates = failure_rates(found.predictions, found.unfinished)
    for line in _told(file, found, asked, summaries, rates):
        print(line)  # noqa: T201
    if output is not None:
        write_json(output, _report(file, found, asked, summaries, rates, judged))
        print(f"written to {output} / 已写入 {output}")  # noqa: T201


def _asked(name: str) -> Asked:
    """Read `NAME`, or `NAME:MAX_TARGET_LENGTH:MODEL` for a protocol whose tool cuts references."""
    known, *cut = name.split(":", 2)
    if known in TASK_PROTOCOLS:
        raise UserError(f'--protocol {name}: {known} takes nothing behind its name. Write "{known}".')
    protocol = get_protocol(known, also=TASK_PROTOCOLS)
    if not cut:
        return Asked(protocol, None, None)
    example = "chatglm-6b:64:models/chatglm-6b"
    if protocol.references != "cut":
        raise UserError(f'--protocol {name}: {known} keeps references whole. Write "{known}"; {example} cuts them.')
    if len(cut) < 2 or not cut[0].isascii() or not cut[0].isdecimal() or int(cut[0]) < 4 or not cut[1]:
        raise UserError(
            f"--protocol {name}: to cut references, give the max_target_length (4 or more) of the original's evaluation "
            f"and a folder with its tokenizer, as in {example}."
        )
    return Asked(protocol, int(cut[0]) - 2, open_tokenizer(resolve_source(cut[1])))


def _scored(found: Predictions, asked: Mapping[str, Asked]) -> dict[str, list[RowScore]]:
    """The scores of all rows under each protocol asked for; those that score against the same references share the work."""
    rows: dict[str, list[RowScore]] = {label: [] for label in asked}
    with Progress(f"scoring {len(found.predictions)} rows", len(found.predictions), "row") as progress:
        for start in range(0, len(found.predictions), CHUNK):
            predictions, references = found.predictions[start : start + CHUNK], found.references[start : start + CHUNK]
            whole = {label: one for label, one in asked.items() if one.tokenizer is None}
            together = score_protocols(predictions, references, [one.protocol.name for one in whole.values()])
            for label, one in asked.items():
                name = one.protocol.name
                scores = together[name] if label in whole else score_protocols(predictions, one.references(references), [name])[name]
                rows[label] += scores
            progress.advance(len(predictions))
    return rows


def _told(
    file: Path, found: Predictions, asked: Mapping[str, Asked], summaries: Mapping[str, Summary], rates: FailureRates
) -> Iterable[str]:
    """Everything for a person: what was read, what is wrong with many answers, the table, and what its columns count."""
    rows = f"{len(found.predictions):,}"
    yield f'{file}: {rows} rows; predictions from "{found.prediction_column}", references from "{found.reference_column}"'
    yield f"{file}：{rows} 行；预测取自“{found.prediction_column}”列，参考答案取自“{found.reference_column}”列"
    for warned in failure_warnings(rates):
        yield f"warning: {warned.english}"
        yield f"警告：{warned.chinese}"
    yield ""
    yield from _table(summaries)
    yield "0 to 100, higher is nearer to the reference; below each mean its 95 % bootstrap interval."
    yield "0 到 100，越高越接近参考答案；均值下一行是 95% 自助法区间。"
    yield ""
    stopped = "whether they stop is not known from this file" if rates.unfinished is None else f"{rates.unfinished:.1%} never stop"
    halted = "是否停得下来：此文件没有记录" if rates.unfinished is None else f"停不下来 {rates.unfinished:.1%}"
    yield f"{rates.empty:.1%} of the answers are empty, {rates.repeated:.1%} repeat themselves, {stopped}."
    yield f"空回答 {rates.empty:.1%}，自我重复 {rates.repeated:.1%}，{halted}。"
    yield ""
    yield from _counted(asked, summaries)
    yield from _references(asked, found)


def _counted(asked: Mapping[str, Asked], summaries: Mapping[str, Summary]) -> Iterable[str]:
    """What each protocol counts."""
    for protocol in {one.protocol.name: one.protocol for one in asked.values()}.values():
        yield f"{protocol.name}: {protocol.description.english}"
        yield f"  {protocol.description.chinese}"
    for label, found in summaries.items():
        for note in found.notes:
            yield f"{label}: {note.english}"
            yield f"  {note.chinese}"
        if found.dropped:
            yield f"{label}: {found.dropped:,} of {found.rows:,} rows were left out / 未计入 {found.dropped:,} 行"


def _table(summaries: Mapping[str, Summary]) -> Iterable[str]:
    width = max(16, *(len(label) + 2 for label in summaries))
    yield f"{'':8}" + "".join(f"{label:>{width}}" for label in summaries)
    for metric in [name for name in METRIC_BY_NAME if any(name in found.means for found in summaries.values())]:
        means = [found.means.get(metric) for found in summaries.values()]
        yield f"{metric:8}" + "".join(f"{f'{mean.value:.2f}' if mean else '':>{width}}" for mean in means)
        yield f"{'':8}" + "".join(f"{f'{mean.low:.2f} - {mean.high:.2f}' if mean else '':>{width}}" for mean in means)


def _references(asked: Mapping[str, Asked], found: Predictions) -> Iterable[str]:
    """Whether the references were cut."""
    before = found.references_cut_to
    for label, one in asked.items():
        if one.cut_to is not None:
            yield f"{label}: references cut here to {one.cut_to} tokens, as published / 参考答案在此截断到 {one.cut_to} 个词元，同原版"
    whole = [one.protocol for one in asked.values() if one.cut_to is None]
    if whole and before is not None:
        yield f"References: `imprint evaluate` had cut them to {before} tokens when it wrote the file."
        yield f"参考答案：`imprint evaluate` 写文件时已截断到 {before} 个词元。"
    elif whole:
        yield "References: as the file has them, not cut here."
        yield "参考答案：按文件原样，此处未截断。"
        if any(protocol.references == "cut" for protocol in whole):
            yield "  A file that ChatGLM-6B's own script wrote has them cut already; --protocol chatglm-6b:64:MODEL cuts those of any other"
            yield "  (64: its max_target_length; MODEL: a folder with its tokenizer)."
            yield "  ChatGLM-6B 原版脚本写出的文件已是截断过的；其他文件可用 --protocol chatglm-6b:64:MODEL 截断"
            yield "  （64 即 max_target_length，MODEL 为含分词器的目录）。"


def _report(
    file: Path,
    found: Predictions,
    asked: Mapping[str, Asked],
    summaries: Mapping[str, Summary],
    rates: FailureRates,
    judged: Mapping[str, TaskScores],
) -> dict[str, Any]:
    protocols: dict[str, dict[str, Any]] = {}
    for label, scored in summaries.items():
        one = asked.get(label)
        protocols[label] = {
            "protocol": scored.protocol,
            "references_cut_to": (one.cut_to if one else None) or found.references_cut_to,
            "dropped": scored.dropped,
            **{metric: asdict(mean) for metric, mean in scored.means.items()},
        }
    for label, other in judged.items():
        protocols[label] |= {"signatures": other.signatures} if other.signatures else {}
        if other.classes is not None:
            protocols[label] |= {"classes": [asdict(one) for one in other.classes.classes], "confusion": other.classes.confusion}
    return {
        "file": str(file),
        "rows": len(found.predictions),
        "columns": {"prediction": found.prediction_column, "reference": found.reference_column},
        "protocols": protocols,
        "empty_share": rates.empty,
        "repeated_share": rates.repeated,
        "unfinished_share": rates.unfinished,
    }
