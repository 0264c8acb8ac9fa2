"""A sink for Trackio, an experiment tracker with a database on this machine, without an account."""

import io
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

from imprint.events import Evaluation, Event, Notice, Step, WatchedAnswer, event_numbers
from imprint.messages import Bilingual, UserError
from imprint.terminal import say

PROJECT = "imprint"


def refuse_missing_trackio() -> None:
    """Raise UserError if the package is not installed."""
    if find_spec("trackio") is None:
        raise UserError(
            Bilingual(
                'train.tracker=trackio: the package "trackio" is not installed. Run `pip install "imprint[trackio]"`, or leave '
                "train.tracker out.",
                '未安装 trackio：请运行 pip install "imprint[trackio]"，或去掉 train.tracker。',
            )
        )


class Trackio:
    """One run of the project `imprint` in Trackio's database, named after the run folder; a resumed run continues it."""

    def __init__(self, name: str, recipe: dict[str, Any]) -> None:
        import trackio  # takes half a second to import

        with redirect_stdout(io.StringIO()):  # it prints messages about uploads, which do not happen
            self._run = trackio.init(PROJECT, name=name, config=recipe, resume="allow", auto_log_gpu=False, auto_log_cpu=False, embed=False)
        self._text = trackio.Markdown
        say(Bilingual(f"logged to Trackio as {name}: trackio show --project {PROJECT}", f"Trackio 记录名：{name}").line)

    def write(self, event: Event) -> None:
        """Log the values of a step or an evaluation, or the text of a watched answer or a notice."""
        values: dict[str, object]
        match event:
            case Step() | Evaluation():
                values = {**event_numbers(event)}
            case WatchedAnswer():
                values = {"sample": self._text(f"{event.prompt}\n\n{event.answer}")}
            case Notice():
                values = {"notice": self._text(str(event.message))}
            case _:
                return
        self._run.log(values, step=event.step)

    def close(self) -> None:
        """Finish the run in Trackio's database."""
        import trackio

        with redirect_stdout(io.StringIO()):
            trackio.finish()
