"""`imprint score PREDICTIONS`: the answers of any tool, scored under named protocols side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from imprint.data.readers.predictions import Predictions, read_predictions
from imprint.data.special_tokens import count_special_tokens, has_closed_thoughts, has_special_token, without_edge_tokens
from imprint.files.atomic import write_json
from imprint.files.links import follow_link
from imprint.loading.load import open_tokenizer
from imprint.loading.source import resolve_source
from imprint.messages import Bilingual, UserError
from imprint.metrics.means import Summary, summary
from imprint.metrics.protocols import PROTOCOLS, Protocol, get_protocol
from imprint.metrics.rates import FailureRates, failure_rates, failure_warnings
from imprint.metrics.scores import RowScore, score_protocols
from imprint.metrics.task_scores import METRIC_BY_NAME, TASK_PROTOCOLS, TaskScores, score_by_protocol
from imprint.progress import Progress
from imprint.terminal import say

MAX_LISTED: Final = 5
"""Maximum number of special tokens that a warning names."""
CHUNK: Final = 100
"""Rows scored between two updates of the progress bar."""


@dataclass(frozen=True)
class RequestedProtocol:
    """A protocol as given by --protocol: `chatglm-6b`, or `chatglm-6b:64:MODEL` to truncate references as the original does."""

    protocol: Protocol
    """The scoring protocol."""
    cut_to: int | None
    """Maximum tokens of a reference; None does not truncate."""
    cut: Callable[[str], str] | None
    """Truncates a reference; None does not truncate."""

    @property
    def label(self) -> str:
        """Heading of its column of scores."""
        return self.protocol.name if self.cut_to is None else f"{self.protocol.name}:{self.cut_to + 2}"

    def references(self, texts: Sequence[str]) -> list[str]:
        """The references, truncated if requested."""
        return list(texts) if self.cut is None else [self.cut(text) for text in texts]


def score_command(file: Path, *, protocols: Sequence[str] | None, output: Path | None) -> None:
    """Score a predictions file under the requested protocols, by default all protocols for texts; prints the scores and writes them."""
    names = list(dict.fromkeys(protocols or PROTOCOLS))
    requested = {request.label: request for request in (_parse_protocol(name) for name in names if name not in TASK_PROTOCOLS)}
    predictions = read_predictions(file)
    _refuse_empty_references(file, predictions)
    output = None if output is None else follow_link(output)
    if output is not None and output.exists() and output.samefile(file):
        raise UserError(
            Bilingual(
                f"{output}: is the file of predictions itself. Give --output another name.",
                f"{output}：这正是预测文件本身：请给 --output 换一个名字。",
            )
        )
    task_scores = {
        name: score_by_protocol(name, predictions.predictions, predictions.references) for name in names if name in TASK_PROTOCOLS
    }
    summaries = (
        {label: summary(rows, requested[label].protocol.name) for label, rows in _score_rows(predictions, requested).items()}
        if requested
        else {}
    )
    summaries |= {name: scores.summary for name, scores in task_scores.items()}
    rates = failure_rates(predictions.predictions, predictions.unfinished)
    for line in _report_lines(file, predictions, requested, summaries, rates):
        say(line)
    if output is not None:
        write_json(output, _report_json(file, predictions, requested, summaries, rates, task_scores))
        say(f"written to {output} / 已写入 {output}")


def _parse_protocol(name: str) -> RequestedProtocol:
    """Read `NAME`, or `NAME:MAX_TARGET_LENGTH:MODEL` for a protocol whose tool cuts references."""
    known, *cut = name.split(":", 2)
    if known in TASK_PROTOCOLS:
        raise UserError(
            Bilingual(
                f'--protocol {name}: {known} takes nothing after its name. Write "{known}".',
                f"--protocol {name}：该计分方式的名字后面不能再加内容：请写 {known}。",
            )
        )
    protocol = get_protocol(known, also=TASK_PROTOCOLS)
    if not cut:
        return RequestedProtocol(protocol, None, None)
    example = "chatglm-6b:64:models/chatglm-6b"
    if protocol.references != "cut":
        raise UserError(
            Bilingual(
                f'--protocol {name}: {known} does not truncate references. Write "{known}"; {example} truncates them.',
                f"--protocol {name}：该计分方式不截断参考答案：请写 {known}；要截断请用 {example}。",
            )
        )
    if len(cut) < 2 or not cut[0].isascii() or not cut[0].isdecimal() or int(cut[0]) < 4 or not cut[1]:
        raise UserError(
            Bilingual(
                f"--protocol {name}: to cut references, give the max_target_length (4 or more) of the original's evaluation "
                f"and a folder with its tokenizer, as in {example}.",
                f"--protocol {name}：截断参考答案需要原版评估的 max_target_length（不小于 4）和含分词器的目录，例如 {example}。",
            )
        )
    cut_to, tokenizer = int(cut[0]) - 2, open_tokenizer(resolve_source(cut[1]))
    return RequestedProtocol(protocol, cut_to, lambda text: tokenizer.decode(tokenizer.encode(text)[:cut_to]))


def _score_rows(predictions: Predictions, requested: Mapping[str, RequestedProtocol]) -> dict[str, list[RowScore]]:
    """Scores of all rows under each requested protocol; protocols with the same references share the computation."""
    rows: dict[str, list[RowScore]] = {label: [] for label in requested}
    with Progress(Bilingual("scoring", "评分"), len(predictions.predictions), "row") as progress:
        for start in range(0, len(predictions.predictions), CHUNK):
            batch, references = predictions.predictions[start : start + CHUNK], predictions.references[start : start + CHUNK]
            shared = {label: request for label, request in requested.items() if request.cut is None}
            shared_scores = score_protocols(batch, references, [request.protocol.name for request in shared.values()])
            for label, request in requested.items():
                name = request.protocol.name
                scores = shared_scores[name] if label in shared else score_protocols(batch, request.references(references), [name])[name]
                rows[label] += scores
            progress.advance(len(batch))
    return rows


def _report_lines(
    file: Path, predictions: Predictions, requested: Mapping[str, RequestedProtocol], summaries: Mapping[str, Summary], rates: FailureRates
) -> Iterable[str]:
    """The printed report: what was read, warnings, the table, and what its columns mean."""
    rows = f"{len(predictions.predictions):,}"
    yield f'{file}: {rows} rows; predictions from "{predictions.prediction_column}", references from "{predictions.reference_column}"'
    yield f"{file}：{rows} 行；预测取自“{predictions.prediction_column}”列，参考答案取自“{predictions.reference_column}”列"
    for warning in (*failure_warnings(rates), *text_warnings(predictions)):
        yield f"warning: {warning.english}"
        yield f"警告：{warning.chinese}"
    yield ""
    yield from _table_lines(summaries)
    yield "0 to 100, higher is nearer to the reference; below each mean its 95 % bootstrap interval."
    yield "0 到 100，越高越接近参考答案；均值下一行是 95% 自助法区间。"
    yield ""
    unfinished = "whether they stop is not known from this file" if rates.unfinished is None else f"{rates.unfinished:.1%} never stop"
    unfinished_chinese = "是否停得下来：此文件没有记录" if rates.unfinished is None else f"停不下来 {rates.unfinished:.1%}"
    yield f"{rates.empty:.1%} of the answers are empty, {rates.repeated:.1%} repeat themselves, {unfinished}."
    yield f"空回答 {rates.empty:.1%}，自我重复 {rates.repeated:.1%}，{unfinished_chinese}。"
    yield ""
    yield from _protocol_lines(requested, summaries)
    yield from _reference_lines(requested, predictions)


def _refuse_empty_references(file: Path, predictions: Predictions) -> None:
    if not any(reference.strip() for reference in predictions.references):
        raise UserError(
            Bilingual(
                f'{file}: all {len(predictions.references):,} references are empty ("{predictions.reference_column}"), so there is '
                "nothing to score against. Name the column of the right answers label, or fill it.",
                f"{file}：全部 {len(predictions.references):,} 条参考答案都是空的（“{predictions.reference_column}”列），无法计分："
                "请把正确答案的列命名为 label，或补全该列。",
            )
        )


def text_warnings(predictions: Predictions) -> Iterable[Bilingual]:
    """Warnings of empty references, and of special tokens and thoughts that another tool has left in the texts; both are scored as text."""
    rows = len(predictions.references)
    if empty := sum(not text.strip() for text in predictions.references):
        yield Bilingual(
            f"{empty:,} of {rows:,} references are empty; such a row scores 0, or is left out where the protocol says so. Fill them, or "
            "leave these rows out.",
            f"{rows:,} 条参考答案中有 {empty:,} 条是空的，这些行计 0 分，或按协议不计入：请补全或去掉这些行。",
        )
    pairs = zip(predictions.predictions, predictions.references, strict=True)
    if thoughts := sum(has_closed_thoughts(answer) and not has_closed_thoughts(right) for answer, right in pairs):
        yield Bilingual(
            f"{thoughts:,} of {rows:,} answers hold thoughts (</think>), and their references none. They are scored as text and change "
            "every score. Keep what follows </think>.",
            f"{rows:,} 条回答中有 {thoughts:,} 条含有思考过程（</think>），而参考答案没有，会按文本计分并改变所有分数："
            "请只保留 </think> 之后的内容。",
        )
    for what, chinese, texts in (("answers", "回答", predictions.predictions), ("references", "参考答案", predictions.references)):
        tokens = count_special_tokens(texts)
        if not tokens:
            continue
        holding = sum(has_special_token(text) for text in texts)
        alone = sum(bool(text.strip()) and not without_edge_tokens(text).strip() for text in texts)
        listed = ", ".join(f"{token} in {count:,}" for token, count in tokens.most_common(MAX_LISTED))
        nothing = f"; {alone:,} hold nothing else, which is an empty answer" if alone else ""
        yield Bilingual(
            f"{holding:,} of {rows:,} {what} hold special tokens ({listed}){nothing}. They are scored as text and change every score. "
            "Decode without special tokens (skip_special_tokens=True), or delete them.",
            f"{rows:,} 条{chinese}中有 {holding:,} 条含有控制符（{listed}）"
            + (f"，其中 {alone:,} 条没有别的内容" if alone else "")
            + "，会按文本计分并改变所有分数：请在解码时去掉特殊词元（skip_special_tokens=True），或删去它们。",
        )


def _protocol_lines(requested: Mapping[str, RequestedProtocol], summaries: Mapping[str, Summary]) -> Iterable[str]:
    """What each protocol counts, and notes on its scores."""
    for protocol in {request.protocol.name: request.protocol for request in requested.values()}.values():
        yield f"{protocol.name}: {protocol.description.english}"
        yield f"  {protocol.description.chinese}"
    for label, scored in summaries.items():
        for note in scored.notes:
            yield f"{label}: {note.english}"
            yield f"  {note.chinese}"
        if scored.dropped:
            yield f"{label}: {scored.dropped:,} of {scored.rows:,} rows were left out / 未计入 {scored.dropped:,} 行"


def _table_lines(summaries: Mapping[str, Summary]) -> Iterable[str]:
    width = max(16, *(len(label) + 2 for label in summaries))
    yield f"{'':8}" + "".join(f"{label:>{width}}" for label in summaries)
    for metric in [name for name in METRIC_BY_NAME if any(name in scored.means for scored in summaries.values())]:
        means = [scored.means.get(metric) for scored in summaries.values()]
        yield f"{metric:8}" + "".join(f"{f'{mean.value:.2f}' if mean else '':>{width}}" for mean in means)
        yield f"{'':8}" + "".join(f"{f'{mean.low:.2f} - {mean.high:.2f}' if mean else '':>{width}}" for mean in means)


def _reference_lines(requested: Mapping[str, RequestedProtocol], predictions: Predictions) -> Iterable[str]:
    """Whether the references were truncated."""
    earlier_limit = predictions.references_cut_to
    for label, request in requested.items():
        if request.cut_to is not None:
            limit = request.cut_to
            yield f"{label}: references cut here to {limit} tokens, as published / 参考答案在此截断到 {limit} 个词元，同原版"
    whole = [request.protocol for request in requested.values() if request.cut_to is None]
    if whole and earlier_limit is not None:
        yield f"References: `imprint evaluate` had cut them to {earlier_limit} tokens when it wrote the file."
        yield f"参考答案：`imprint evaluate` 写文件时已截断到 {earlier_limit} 个词元。"
    elif whole:
        yield "References: as the file has them, not cut here."
        yield "参考答案：按文件原样，此处未截断。"
        if any(protocol.references == "cut" for protocol in whole):
            yield "  A file that ChatGLM-6B's own script wrote has them cut already; --protocol chatglm-6b:64:MODEL cuts those of any other"
            yield "  (64: its max_target_length; MODEL: a folder with its tokenizer)."
            yield "  ChatGLM-6B 原版脚本写出的文件已是截断过的；其他文件可用 --protocol chatglm-6b:64:MODEL 截断"
            yield "  （64 即 max_target_length，MODEL 为含分词器的目录）。"


def _report_json(
    file: Path,
    predictions: Predictions,
    requested: Mapping[str, RequestedProtocol],
    summaries: Mapping[str, Summary],
    rates: FailureRates,
    task_scores: Mapping[str, TaskScores],
) -> dict[str, Any]:
    protocols: dict[str, dict[str, Any]] = {}
    for label, scored in summaries.items():
        request = requested.get(label)
        protocols[label] = {
            "protocol": scored.protocol,
            "references_cut_to": (request.cut_to if request else None) or predictions.references_cut_to,
            "dropped": scored.dropped,
            **{metric: asdict(mean) for metric, mean in scored.means.items()},
        }
    for label, scores in task_scores.items():
        protocols[label] |= {"signatures": scores.signatures} if scores.signatures else {}
        if scores.classes is not None:
            protocols[label] |= {
                "classes": [asdict(class_score) for class_score in scores.classes.classes],
                "confusion": scores.classes.confusion,
            }
    return {
        "file": str(file),
        "rows": len(predictions.predictions),
        "columns": {"prediction": predictions.prediction_column, "reference": predictions.reference_column},
        "protocols": protocols,
        "empty_share": rates.empty,
        "repeated_share": rates.repeated,
        "unfinished_share": rates.unfinished,
        "empty_references": sum(not text.strip() for text in predictions.references),
        "control_tokens": {
            "predictions": dict(count_special_tokens(predictions.predictions).most_common()),
            "references": dict(count_special_tokens(predictions.references).most_common()),
        },
    }
