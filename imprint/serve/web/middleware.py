"""What every request passes first: its id, the check of its host, the headers of every answer, the log, and what becomes of bugs."""

import re
import secrets
import time
from types import MappingProxyType
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imprint.messages import Bilingual
from imprint.serve.web.access import COOKIE
from imprint.serve.web.errors import BUG, ApiError
from imprint.serve.web.log import log
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.request_body import header
from imprint.serve.web.settings import WebSettings

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The page runs its own scripts alone, and turns no text into markup."""
HEADERS: Final = MappingProxyType(
    {
        b"content-security-policy": POLICY.encode(),
        b"x-content-type-options": b"nosniff",
        b"x-frame-options": b"DENY",
        b"referrer-policy": b"no-referrer",
        b"cross-origin-opener-policy": b"same-origin",
        b"cross-origin-resource-policy": b"same-origin",
        b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
        b"cache-control": b"no-store",
    }
)
"""Headers of every answer that does not set them itself."""
STAY_SECURE: Final = (b"strict-transport-security", b"max-age=31536000")
"""Of an answer over TLS: a browser comes over TLS again."""
FOREIGN_HOST: Final = Bilingual(
    "This service is not known under the host name of the request; the operator allows a name by hosts=[NAME].",
    "本服务不使用请求中的主机名；运维可用 hosts=[NAME] 允许它。",
)
MAX_QUERY_FIELDS: Final = 64
"""Most fields of a query: each takes time on every route, whether or not it has such a field."""
MAX_COOKIES: Final = 256
"""Most cookies: more than browsers keep for a host."""
MANY_FIELDS: Final = Bilingual(f"The query has more than {MAX_QUERY_FIELDS} fields.", f"查询参数超过 {MAX_QUERY_FIELDS} 个。")
MANY_COOKIES: Final = Bilingual(f"The request has more than {MAX_COOKIES} cookies.", f"请求的 Cookie 超过 {MAX_COOKIES} 个。")
OWN_COOKIE: Final = re.compile(rb"(?:^|(?<=;)) *((?:__Host-)?" + COOKIE.encode() + rb"=[\w.~-]{1,256})(?= *(?:;|$))")
"""A cookie of the service; its value is never quoted."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBED: Final = frozenset({"/health/live", "/health/ready"})
HEALTHY: Final = 200
CLIENT_CLOSED: Final = 499
"""The status in the log of a request whose client has left."""


class RequestMiddleware:
    """The outermost layer of our own."""

    def __init__(self, app: ASGIApp, settings: WebSettings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; nothing that it raises goes further."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = f"req-{secrets.token_hex(12)}"

        async def send_checked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _with_headers(message.get("headers", []), request_id, secure=scope["scheme"] == "https")}
            await send(message)

        problem: BaseException | None = None
        try:
            if not self.settings.allows_host(header(scope["headers"], b"host").decode("latin-1")):
                raise ApiError("bad_host", FOREIGN_HOST)
            _check_counts(scope)
            scope["headers"] = _without_strange_cookies(scope["headers"])
            await self.app(scope, receive, send_checked)
        except ClientDisconnect:
            state["disconnected"] = True
        except ApiError as error:
            await error.response(request_id)(scope, receive, send_checked)
        except Exception as error:
            problem = error
            if not status:
                await ApiError("server_error", BUG).response(request_id)(scope, receive, send_checked)
        finally:
            self._record(scope, CLIENT_CLOSED if state.get("disconnected") else status or 500, time.monotonic() - begun, problem)
        if problem is not None and status < 500:
            raise _CutError from None  # the answer had begun: only a closed connection tells that it is not whole

    def _record(self, scope: Scope, status: int, seconds: float, problem: BaseException | None) -> None:
        state = scope["state"]
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in METHODS else "other"  # else a client says what it wants, and as long as it wants
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        fields = {
            "request_id": state["request_id"],
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "address": (scope.get("client") or ("",))[0],
            "account": state.get("account"),
        }
        if not (route in PROBED and status == HEALTHY):  # probes come every few seconds
            log("request", fields, problem=problem)


class _CutError(Exception):
    """Raised to the server so that it closes the connection; what happened is in the log already."""


def _check_counts(scope: Scope) -> None:
    """Raise ApiError for what every route would divide into very many parts."""
    if scope["query_string"].count(b"&") >= MAX_QUERY_FIELDS:
        raise ApiError("invalid_value", MANY_FIELDS)
    if sum(value.count(b";") for name, value in scope["headers"] if name == b"cookie") >= MAX_COOKIES:
        raise ApiError("header_too_large", MANY_COOKIES)


def _without_strange_cookies(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with the service's own cookies alone.

    Others of its host may be quoted, which Python before 3.11.10 reads in quadratic time (CVE-2024-7592), seven seconds for 60 KB.
    """
    if not any(name == b"cookie" for name, _ in headers):
        return headers
    own = [b"; ".join(OWN_COOKIE.findall(value)) for name, value in headers if name == b"cookie"]
    return [*(one for one in headers if one[0] != b"cookie"), *((b"cookie", value) for value in own if value)]


def _with_headers(headers: list[tuple[bytes, bytes]], request_id: str, *, secure: bool) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    added = [(name, value) for name, value in HEADERS.items() if name not in there]
    return [*headers, *added, *([STAY_SECURE] if secure else []), (b"x-request-id", request_id.encode())]
