"""The structured log: a line of JSON for each request and event, without bodies, queries, headers or anything else that may be secret."""

import json
import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any, Final, TextIO

from imprint.terminal import harmless

LOGGER: Final = "imprint.serve"
FIELDS: Final = "fields"


class JsonLines(logging.Formatter):
    """One record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; of an exception its type and where it was raised, not its text, which may quote what a user sent."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True, default=str)


def describe(problem: BaseException) -> str:
    """An exception's type and the lines of code that it passed, without its text."""
    frames, trace = [], problem.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(problem).__name__} at {' > '.join(frames[-8:])}"


def log(event: str, fields: Mapping[str, Any], *, level: int = logging.INFO, problem: BaseException | None = None) -> None:
    """Write a line."""
    clean = {name: harmless(value) if isinstance(value, str) else value for name, value in fields.items()}
    logging.getLogger(LOGGER).log(level, event, extra={FIELDS: clean}, exc_info=problem)


def log_warning(
    message: Warning | str,  # noqa: ARG001
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Write a line for a warning of Python, without its text, which may quote what a user or a model wrote."""
    log("warning", {"category": category.__name__, "place": f"{filename}:{lineno}"}, level=logging.WARNING)


def start_logging(handler: logging.Handler | None = None) -> None:
    """Write the service's lines, Python's warnings and those of uvicorn to the error stream, or to `handler`."""
    warnings.showwarning = log_warning
    chosen = logging.StreamHandler() if handler is None else handler
    chosen.setFormatter(JsonLines())
    for name, level in ((LOGGER, logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [chosen]
        logger.setLevel(level)
        logger.propagate = False
