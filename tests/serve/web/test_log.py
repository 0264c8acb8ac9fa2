import json
import logging

import pytest

from imprint.serve.web.log import FIELDS, LOGGER, JsonLines, describe


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
