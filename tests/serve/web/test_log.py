import ast
import json
import logging
import warnings

import pytest

from imprint.serve.web.log import FIELDS, LOGGER, JsonLines, describe, start_logging


def test_an_exception_is_told_by_type_and_place_alone() -> None:
    with pytest.raises(KeyError) as caught:
        raise KeyError("sk-secret")
    assert describe(caught.value).startswith("KeyError at web/test_log.py:")
    assert "secret" not in describe(caught.value)


def test_a_record_is_a_line_of_json() -> None:
    record = logging.LogRecord(LOGGER, logging.INFO, "", 0, "request", None, None)
    setattr(record, FIELDS, {"status": 200})
    line = json.loads(JsonLines().format(record))
    assert (line["event"], line["level"], line["status"]) == ("request", "info", 200)


def test_a_warning_is_a_line_of_json_without_what_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging()
    warnings.simplefilter("always")
    ast.parse("1if secret else 2")
    warnings.warn("secret", stacklevel=1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["category"].endswith("Warning"), "secret" in str(line)) for line in lines] == [
        ("warning", True, False)
    ] * 2
