"""Results of a benchmark as lines of JSON, on the screen and in a file."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

Report = Callable[..., None]
"""Takes the values of one result by name."""


def reporter(out: Path | None, **of_all: object) -> Report:
    """What prints a line for each result, after the device, PyTorch's version and the values `of_all`; also to the end of `out`."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    common = {"device": device, "torch": torch.__version__, **of_all}

    def report(**values: object) -> None:
        line = json.dumps({**common, **values})
        print(line, flush=True)
        if out:
            with out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    return report
