"""A report of a run that was made up."""

from imprint.forgetting.score import Forgetting, ProbeResult
from imprint.messages import Bilingual
from imprint.report.runpage import Example, RunReport
from tests.logged import evaluation, step

HOSTILE = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"


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
        summary=(Bilingual("verdict: `fine`", "结论：好"),),
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
    )
