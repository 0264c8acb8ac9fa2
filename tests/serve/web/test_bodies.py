import pytest
from pydantic import ValidationError

from imprint.serve.web.bodies import ChangeBody, MessageBody, as_set, given


def test_null_and_absent_are_two_things() -> None:
    assert given(ChangeBody.model_validate({"models": None})) == {"models": None}
    assert given(ChangeBody.model_validate({})) == {}
    assert (as_set(None), as_set(["a"])) == (None, frozenset({"a"}))


def test_a_question_has_a_text_or_a_place() -> None:
    with pytest.raises(ValidationError):
        MessageBody.model_validate({"models": ["base"]})
    assert MessageBody.model_validate({"models": ["base"], "parent": "m"}).text is None
