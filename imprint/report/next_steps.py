"""What to do with a finished run: the commands that are printed at its end and stand in its report."""

import shlex
from dataclasses import dataclass

from imprint.messages import Bilingual


@dataclass(frozen=True)
class NextStep:
    """A command, or a setting of another recipe."""

    command: str
    """What to type."""
    purpose: Bilingual
    """What it does."""


def next_steps(run: str, data: str | None, kind: str = "rows", *, held_out: bool) -> list[NextStep]:
    """What to do next; `data` is the file of held-out rows, if any, `held_out` whether the run holds out rows."""
    path, file = shlex.quote(run), "FILE" if data is None else shlex.quote(data)
    chat = NextStep(f"imprint chat {path}", Bilingual("talk to it", "与它对话"))
    export = NextStep(
        f"imprint export {path} --to bundle", Bilingual("one file to share; other formats: --help", "打包成一个文件，其他格式见 --help")
    )
    if kind == "texts":
        measured = Bilingual("how sure it is of texts, before and after", "困惑度，微调前后对照")
        taught = Bilingual("in another recipe: teach it to answer", "在另一配方中作底座，再做指令微调")
        return [NextStep(f"imprint perplexity {path} --data {file}", measured), NextStep(f"model.path={path}", taught), chat, export]
    return [
        chat,
        NextStep(
            f"imprint evaluate {path}" if data is None and held_out else f"imprint evaluate {path} --data {file}",
            Bilingual("scores on held-out rows", "在留出数据上打分"),
        ),
        NextStep(
            f"imprint compare {path}{'' if held_out else f' --data {file}'}",
            Bilingual("before and after, side by side", "微调前后并排对照"),
        ),
        export,
    ]
