"""What the OpenAPI document says of answers: the one shape of errors, streams, and how to show who asks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str | None


class ErrorBody(BaseModel):
    """The one shape of errors."""

    error: ErrorDetail


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is"},
    "5XX": {"model": ErrorBody, "description": "The service cannot answer now"},
}
STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The answer; with stream: true as server-sent events that end with [DONE]",
        "content": {"application/json": {}, "text/event-stream": {"schema": {"type": "string"}}},
    },
    **ERRORS,
}
SCHEMES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key of an account"},
        "session": {"type": "apiKey", "in": "cookie", "name": "imprint_session", "description": "The page's session"},
    }
)
"""Credential of a route's access -> how it is shown."""
