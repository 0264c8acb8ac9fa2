"""A report of a run that was made up."""

import dataclasses
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, Literal, get_origin, get_type_hints

from imprint.forgetting.result import Forgetting, ProbeResult
from imprint.messages import Bilingual
from imprint.report.next_steps import NextStep
from imprint.report.run_report import Example, RunReport
from imprint.report.run_scores import EvaluationScores
from imprint.report.starts import RunStart
from imprint.terminal import CONTROLS
from tests.logged import evaluation, step

HOSTILE = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"
POISON = "</title></style></script>" + HOSTILE + '"\' onmouseover=a x="<!--&lt;`<svg/onload=a>` -> javascript:a\x1b[31m\u202e\ud800\x00'


def poisoned(value: Any) -> Any:
    """The same value with markup, quotes, escapes and lone surrogates in all its texts, but for names of metrics and literals."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        types = get_type_hints(type(value))
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = {
            name: field for name, field in fields.items() if get_origin(types[name]) is not Literal and name not in ("metric", "protocol")
        }
        return dataclasses.replace(value, **{name: poisoned(field) for name, field in changed.items()})
    if isinstance(value, Mapping):
        return {poisoned(key) if isinstance(item, str) else key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(poisoned(item) for item in value)
    return value + POISON if isinstance(value, str) else value


def intruders(page: str) -> list[object]:
    """Elements and attributes in a page that are none of ours, and control characters."""
    parser = _Intruders()
    parser.feed(page)
    parser.close()
    return [*parser.found, *["script"] * (page.count("<script>") - 1), *CONTROLS.findall(page)]


class _Intruders(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[object] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element or attribute that none of our pages has."""
        links = [value or "" for name, value in attrs if name in ("href", "src")]
        bad = any(name.startswith("on") for name, _value in attrs) or any("javascript:" in link or link == "x" for link in links)
        if bad:
            self.found.append((tag, attrs))


START = RunStart(
    time="2026-11-29 14:56:57+00:00",
    command="imprint train identity.yaml 'data.fill.name=a b'",
    versions="Imprint 0.1, Python 3.11.2, PyTorch 2.6.0, transformers 5.0",
    machine="Linux x86_64, a processor, 2 CPUs, 8.0 GiB",
    device="NVIDIA H200, 139.8 GiB",
    processes=2,
)


def run_report() -> RunReport:
    """A small report with everything in it that could break a page."""
    rows = (
        ProbeResult.compare("天黑了", ("晚上好",), "晚上好！", "晚上好呀"),
        ProbeResult.compare("1+1=?", ("1+1=2",), "1+1=2。", HOSTILE),
        ProbeResult.compare("你好", (), "你好", "你好"),
        ProbeResult.compare("9×9", ("81",), "80", "80"),
    )
    examples = tuple(
        Example(f"你是谁{number}？", "我是小墨。", "我是小印。", HOSTILE if number == 11 else "我是小墨！") for number in range(12)
    )
    return RunReport(
        title="identity <b>",
        base_name="embedded",
        method="lora",
        verdict=(Bilingual("verdict: `fine`", "结论：好"),),
        events=[
            evaluation(0, 7.0),
            *(step(number, 3 / number, learning_rate=1e-3, memory_gib=0.5, seconds=20.0 * number) for number in range(1, 9)),
            evaluation(8, 0.5),
        ],
        examples=examples,
        example_kind="held-out",
        fill_texts=("小墨",),
        forgetting=Forgetting(rows, 0.0123, 900, "a/long/path/" * 12 + "probes.jsonl", "neutral.txt", 2.0),
        recipe="output: runs/identity\n",
        scores=(
            EvaluationScores("held-out", "rouge-l", 12, {"rouge-l": 31.5, "bleu-4": 8.0}),
            EvaluationScores("held-out-base", "rouge-l", 12, {"rouge-l": 10.25, "bleu-4": 2.0}),
        ),
        starts=(START,),
        next_steps=(NextStep("imprint chat runs/identity", Bilingual("talk to it", "与它对话")),),
        path="runs/identity",
        logged="2026-11-29 16:00:00+00:00",
    )
