from imprint.messages import Bilingual
from imprint.serve.web.errors import CODES, ApiError
from imprint.serve.web.openapi import ErrorBody


def test_the_documented_error_is_the_one_that_is_sent() -> None:
    for code in CODES:
        body = ApiError(code, Bilingual("a", "b")).body("req-1")
        assert ErrorBody.model_validate(body).model_dump() == body
