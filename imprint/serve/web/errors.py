"""The one shape of every error over HTTP, `{"error": {message, type, param, code, request_id}}`; none repeats what was sent."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from imprint.messages import Bilingual
from imprint.serve.generation.job import RefusedError
from imprint.serve.store.errors import StoreError
from imprint.serve.web.log import log

MAX_PROBLEMS: Final = 8
"""Most problems of a request that one error names."""
CODES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "invalid_value": (400, "invalid_request_error"),
        "invalid_json": (400, "invalid_request_error"),
        "unsupported_value": (400, "invalid_request_error"),
        "context_length_exceeded": (400, "invalid_request_error"),
        "missing_credentials": (401, "authentication_error"),
        "invalid_api_key": (401, "authentication_error"),
        "invalid_session": (401, "authentication_error"),
        "wrong_password": (401, "authentication_error"),
        "permission_denied": (403, "permission_error"),
        "cross_site_request": (403, "permission_error"),
        "password_change_required": (403, "permission_error"),
        "not_found": (404, "not_found"),
        "model_not_found": (404, "not_found"),
        "method_not_allowed": (405, "invalid_request_error"),
        "request_timeout": (408, "request_timeout"),
        "conflict": (409, "conflict"),
        "payload_too_large": (413, "payload_too_large"),
        "uri_too_long": (414, "invalid_request_error"),
        "unsupported_media_type": (415, "invalid_request_error"),
        "bad_host": (421, "bad_host"),
        "header_too_large": (431, "invalid_request_error"),
        "rate_limited": (429, "rate_limit_error"),
        "queue_full": (429, "rate_limit_error"),
        "quota_exceeded": (429, "rate_limit_error"),
        "server_error": (500, "server_error"),
        "engine_unavailable": (503, "engine_unavailable"),
        "shutting_down": (503, "engine_unavailable"),
        "store_unavailable": (503, "store_unavailable"),
    }
)
"""Code of an error -> HTTP status, and the error's type."""
WAITS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "rate_limited": 5.0,
        "queue_full": 1.0,
        "quota_exceeded": 3600.0,
        "engine_unavailable": 5.0,
        "shutting_down": 10.0,
        "store_unavailable": 2.0,
    }
)
"""Code of an error of 429 or 503 -> seconds after which to try again, where nothing better is known."""
REFUSALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "queue_full": "queue_full",
        "context_length_exceeded": "context_length_exceeded",
        "model_not_found": "model_not_found",
        "unavailable": "engine_unavailable",
        "invalid": "invalid_value",
    }
)
"""Why a backend refuses a job -> the code of the error."""
STORE_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "credentials": "wrong_password",
        "throttled": "rate_limited",
        "quota_exceeded": "quota_exceeded",
        "not_found": "not_found",
        "conflict": "conflict",
        "invalid": "invalid_value",
        "forbidden": "permission_denied",
        "busy": "store_unavailable",
        "unavailable": "store_unavailable",
    }
)
"""Why the store refuses something -> the code of the error."""
BUG: Final = Bilingual(
    "Something went wrong in the server; the request's id is in its log.", "服务器内部出错；日志中可按 request_id 查到。"
)
NO_STORE: Final = Bilingual(
    "The service cannot keep anything at the moment. Try again later; its log says why.",
    "服务目前无法保存数据，请稍后再试；原因见服务日志。",
)
UNKNOWN: Final = Bilingual("There is nothing at this address.", "这个地址没有内容。")
WRONG_METHOD: Final = Bilingual(
    "This address does not take this method; the header Allow names those it takes.", "此地址不支持该方法；见 Allow。"
)
WRONG_METHOD_STATUS: Final = 405
HTTP_MESSAGES: Final[Mapping[int, tuple[str, Bilingual]]] = MappingProxyType(
    {404: ("not_found", UNKNOWN), WRONG_METHOD_STATUS: ("method_not_allowed", WRONG_METHOD)}
)
REQUIREMENTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "missing": ("is missing", "缺少这一项"),
        "bool_type": ("must be true or false", "须为 true 或 false"),
        "int_type": ("must be an integer", "须为整数"),
        "int_from_float": ("must be an integer", "须为整数"),
        "float_type": ("must be a number", "须为数值"),
        "finite_number": ("must be a finite number", "须为有限的数值"),
        "string_type": ("must be text", "须为文本"),
        "list_type": ("must be a list", "须为列表"),
        "tuple_type": ("must be a list", "须为列表"),
        "dict_type": ("must be an object", "须为对象"),
        "model_type": ("must be an object", "须为对象"),
        "model_attributes_type": ("must be an object", "须为对象"),
        "none_required": ("must be null", "须为 null"),
        "greater_than": ("must be above {gt}", "须大于 {gt}"),
        "greater_than_equal": ("must be at least {ge}", "须不小于 {ge}"),
        "less_than": ("must be below {lt}", "须小于 {lt}"),
        "less_than_equal": ("must be at most {le}", "须不大于 {le}"),
        "string_too_short": ("must have at least {min_length} characters", "至少 {min_length} 个字符"),
        "string_too_long": ("must have at most {max_length} characters", "至多 {max_length} 个字符"),
        "too_short": ("must have at least {min_length} items", "至少 {min_length} 项"),
        "too_long": ("must have at most {max_length} items", "至多 {max_length} 项"),
        "literal_error": ("must be one of {expected}", "须为 {expected} 之一"),
        "extra_forbidden": ("is unknown here", "此处没有这一项"),
    }
)
"""Type of pydantic's error -> the requirement on the value, in English and in Chinese."""


class ApiError(Exception):
    """An error with which a request is answered."""

    def __init__(
        self,
        code: str,
        message: Bilingual,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message.line)
        self.code = code
        """One of `CODES`."""
        self.message = message
        self.param = param
        """The field that is wrong, if one is."""
        self.headers = dict(headers)
        seconds = WAITS.get(code) if retry_after is None else retry_after
        if seconds is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(seconds)))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return CODES[self.code][0]

    def body(self, request_id: str | None) -> dict[str, Any]:
        """The error as JSON."""
        kind = CODES[self.code][1]
        return {"error": {"message": self.message.line, "type": kind, "param": self.param, "code": self.code, "request_id": request_id}}

    def response(self, request_id: str | None) -> Response:
        """The error as a response."""
        headers = self.headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
        text = json.dumps(self.body(request_id), ensure_ascii=False).encode("utf-8", "replace")
        return Response(text, status_code=self.status, headers=headers, media_type="application/json")


def refusal_error(refusal: RefusedError) -> ApiError:
    """The error for a job that a backend does not take."""
    code = REFUSALS[refusal.kind]
    param = {"context_length_exceeded": "messages", "model_not_found": "model"}.get(refusal.kind)
    return ApiError(code, refusal.message, param=param, retry_after=refusal.retry_after)


def field_path(loc: Sequence[int | str]) -> str:
    """Pydantic's `loc` as a path such as messages[0].content, without its first part, which says where the field was sent."""
    path = ""
    for part in loc[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The error for a body or a query that breaks the rules of its fields: which, and what is allowed."""
    problems: dict[str, list[Bilingual]] = {}
    for error in errors[:MAX_PROBLEMS]:
        problems.setdefault(_without_union(error["loc"]), []).append(_requirement(error))
    english, chinese = [], []
    for path, texts in problems.items():
        unique = list(dict.fromkeys(texts))
        english.append(f"{path or 'the body'} {' or '.join(text.english for text in unique)}")
        chinese.append(f"{path or '请求体'} {'，或'.join(text.chinese for text in unique)}")
    param = next(iter(problems), None)
    return ApiError("invalid_value", Bilingual(f"{'; '.join(english)}.", f"{'；'.join(chinese)}。"), param=param or None)


def _without_union(loc: Sequence[int | str]) -> str:
    """The path of a field; pydantic also names the member of a union that it tried, such as `str` and `list[...]`."""
    parts = [
        part
        for part in loc
        if isinstance(part, int) or not ("[" in part or part in {"str", "int", "float", "bool", "none"} or part[:1].isupper())
    ]
    path = field_path(parts)
    return path if len(path) <= 100 else path[:97] + "..."


def _requirement(error: Mapping[str, Any]) -> Bilingual:
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        requirement = context["error"].args[0] if context["error"].args else ""
        return requirement if isinstance(requirement, Bilingual) else Bilingual("is not valid", "取值有误")
    english, chinese = REQUIREMENTS.get(error["type"], ("is not valid", "取值有误"))
    return Bilingual(english.format(**context), chinese.format(**context))


def error_of(problem: Exception) -> ApiError:
    """The error with which a request that raised this is answered."""
    if isinstance(problem, ApiError):
        return problem
    if isinstance(problem, RefusedError):
        return refusal_error(problem)
    if isinstance(problem, StoreError) and problem.kind == "unavailable":
        return ApiError("store_unavailable", NO_STORE, retry_after=10.0)  # what is wrong with which file is for the operator
    if isinstance(problem, StoreError):
        return ApiError(STORE_CODES[problem.kind], problem.message, retry_after=problem.retry_after)
    if isinstance(problem, RequestValidationError):
        return validation_error(problem.errors())
    if isinstance(problem, HTTPException) and problem.status_code in HTTP_MESSAGES:
        code, message = HTTP_MESSAGES[problem.status_code]
        return ApiError(code, message, headers=problem.headers or {})
    if isinstance(problem, HTTPException) and problem.status_code < 500:
        return ApiError("invalid_value", Bilingual("The request is not understood.", "无法理解该请求。"))
    return ApiError("server_error", BUG)


async def answer_error(request: Request, problem: Exception) -> Response:
    """The handler of every exception that a request may raise; what is wrong with the database is told in the log."""
    request_id = request.scope.get("state", {}).get("request_id")
    if isinstance(problem, HTTPException) and problem.status_code == WRONG_METHOD_STATUS:
        problem.headers = {"Allow": ", ".join(_methods_of(request))}
    if isinstance(problem, StoreError) and problem.kind == "unavailable":
        log_store(problem, {"request_id": request_id})
    return error_of(problem).response(request_id)


def _methods_of(request: Request) -> list[str]:
    """What the address takes: each of its methods has a route of its own, of which the router names the first alone."""
    routes = (route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE)
    return sorted({method for route in routes for method in route.methods})


def log_store(problem: StoreError, fields: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Tell the operator what the database refuses."""
    log("store", {"problem": problem.kind, "reason": problem.message.english, **fields}, level=logging.WARNING)
