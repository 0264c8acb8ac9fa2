import pytest
from pydantic import ValidationError

from imprint.serve.web.errors import ApiError
from imprint.serve.web.page_bodies import ChangeBody, ImportBody, LoginBody, MessageBody, as_set


def test_null_and_absent_are_two_things() -> None:
    assert ChangeBody.model_validate({"models": None}).model_fields_set == {"models"}
    assert ChangeBody.model_validate({}).model_fields_set == set()
    with pytest.raises(ValidationError, match="has no concurrency: null changes nothing"):
        ChangeBody.model_validate({"concurrency": None})
    assert (as_set(None), as_set(["a"])) == (None, frozenset({"a"}))


def test_a_question_has_a_text_or_a_place() -> None:
    with pytest.raises(ValidationError):
        MessageBody.model_validate({"models": ["base"]})
    assert MessageBody.model_validate({"models": ["base"], "parent": "m"}).text is None


def test_many_unknown_fields_are_one_error() -> None:
    many = {str(number): 1 for number in range(100)}
    with pytest.raises(ApiError):
        LoginBody.model_validate(many)
    with pytest.raises(ValidationError) as caught:
        ImportBody.model_validate({"messages": [{"no": 1}] * 1000})
    assert caught.value.error_count() <= 4
