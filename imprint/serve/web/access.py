"""Who may call a route: each route declares it, and it is checked before the body is read."""

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from imprint.messages import Bilingual
from imprint.serve.json_bounds import MAX_VALUES
from imprint.serve.store.permission import FRESH_SECONDS, permitted_by
from imprint.serve.store.principal import Principal, Role
from imprint.serve.web.errors import ApiError
from imprint.serve.web.openapi import ERRORS, SCHEMES
from imprint.serve.web.request_body import MAX_BODY_BYTES, SMALL_BODY_BYTES, VISITOR_VALUES, parse_json, read_body
from imprint.serve.web.services import (
    Services,
    address_of,
    is_passed_on,
    is_visitor,
    large_body_slot,
    permission_of,
    sender_of,
    services_of,
)
from imprint.serve.web.settings import is_loopback

EVERYBODY: Final[frozenset[Role]] = frozenset({"guest", "user", "admin"})
MEMBERS: Final[frozenset[Role]] = frozenset({"user", "admin"})
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
COOKIE: Final = "imprint_session"
NO_KEY: Final = Bilingual("Send an API key: Authorization: Bearer sk-...", "请提供 API 密钥：Authorization: Bearer sk-...")
WRONG_KEY: Final = Bilingual("This API key is unknown, expired or revoked.", "API 密钥不存在、已过期或已吊销。")
NO_SESSION: Final = Bilingual("Sign in first.", "请先登录。")
OLD_SESSION: Final = Bilingual("This session has ended; sign in again.", "会话已结束；请重新登录。")
NOT_ALLOWED: Final = Bilingual("This account may not do that.", "此账户无权执行该操作。")
CHANGE_PASSWORD: Final = Bilingual("Change the one-time password first.", "请先修改一次性密码。")
CROSS_SITE: Final = Bilingual(
    "This request did not come from the service's own page (Origin, Sec-Fetch-Site, X-Requested-With).",
    "该请求并非来自本服务的页面（Origin、Sec-Fetch-Site、X-Requested-With）。",
)


@dataclass(frozen=True)
class Access:
    """What a request must bring."""

    credential: Literal["none", "key", "session", "local"]
    """Nothing; an API key; the cookie of a session; or a place on this machine or a key."""
    roles: frozenset[Role] = EVERYBODY
    """The roles that may."""
    page: bool = False
    """Whether only the service's own page may call it in a browser: what reads a cookie, or makes one."""
    before_password_change: bool = False
    """Whether it works before a one-time password is changed."""


OPEN: Final = Access("none")
KEY: Final = Access("key", MEMBERS)
OPERATOR: Final = Access("local", frozenset({"admin"}))
LOCAL: Final = Access("local", MEMBERS)
VISITOR: Final = Access("none", page=True)
SESSION: Final = Access("session", page=True)
SESSION_BEFORE_CHANGE: Final = Access("session", page=True, before_password_change=True)
MEMBER: Final = Access("session", MEMBERS, page=True)
MEMBER_BEFORE_CHANGE: Final = Access("session", MEMBERS, page=True, before_password_change=True)
ADMIN: Final = Access("session", frozenset({"admin"}), page=True)


@dataclass(frozen=True)
class Credential:
    """What a request shows."""

    kind: Literal["key", "session"]
    """An API key, or a session's token."""
    secret: str
    """It."""


def credential_of(request: Request, kind: Literal["key", "session"]) -> Credential | None:
    """The one function that takes credentials from a request: a bearer key for programs, a cookie for the page, nothing else."""
    if kind == "key":
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        return Credential("key", secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None
    token = request.cookies.get(cookie_name(request), "")
    return Credential("session", token) if token else None


def cookie_name(request: Request) -> str:
    """The name of the session's cookie: over TLS one that no other host or path can set, which browsers refuse without TLS."""
    return f"__Host-{COOKIE}" if request.url.scheme == "https" else COOKIE


async def authorize(request: Request, access: Access) -> Principal | None:
    """Who asks; None where nobody has to say so. Raises ApiError for whoever may not."""
    services = services_of(request)
    if access.page:
        check_same_site(request)
    if access.credential == "none" or (access.credential == "local" and is_local(request, services)):
        return None
    principal = await identify(request, "session" if access.credential == "session" else "key")
    request.state.account = principal.name
    if principal.role == "guest" and not await services.reads.call(partial(services.lets_in, principal)):
        raise ApiError("invalid_session", OLD_SESSION)
    if principal.role not in access.roles:
        raise ApiError("permission_denied", NOT_ALLOWED)
    if principal.must_change_password and not access.before_password_change:
        raise ApiError("password_change_required", CHANGE_PASSWORD)
    return principal


async def lets_guests_in(request: Request) -> bool:
    """Whether a guest who asks like this is let in."""
    services = services_of(request)
    return await services.reads.call(partial(services.lets_guests_in, passed_on=is_passed_on(request)))


async def identify(request: Request, kind: Literal["key", "session"]) -> Principal:
    """Whose key or session a request shows. Raises ApiError without a valid one."""
    credential = credential_of(request, kind)
    if credential is None:
        raise ApiError("missing_credentials", NO_KEY if kind == "key" else NO_SESSION)
    services = services_of(request)
    find = services.store.keys.of if kind == "key" else services.store.sessions.of
    principal: Principal | None = await services.reads.call(partial(find, credential.secret))
    if principal is None:
        raise ApiError("invalid_api_key", WRONG_KEY) if kind == "key" else ApiError("invalid_session", OLD_SESSION)
    return replace(principal, passed_on=is_passed_on(request))


def is_local(request: Request, services: Services) -> bool:
    """Whether a request comes from this machine, and the service is for this machine alone: a proxy's requests come from here, too."""
    outside = services.settings.public or is_passed_on(request) or is_foreign(request)
    return not outside and is_loopback(address_of(request))


def check_same_site(request: Request) -> None:
    """Raise ApiError for what a page of another site could have sent; also for what only reads, as its time tells what it finds."""
    has_mark = request.method in SAFE_METHODS or request.headers.get("x-requested-with")
    if is_foreign(request) or not has_mark:
        raise ApiError("cross_site_request", CROSS_SITE)


def is_foreign(request: Request) -> bool:
    """Whether a browser says that a page of another site sends this."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}".lower()
    return (origin is not None and not _same_origin(origin, own)) or site not in {None, "same-origin", "none"}


def _same_origin(origin: str, own: str) -> bool:
    try:
        theirs, ours = urlsplit(origin.lower()), urlsplit(own)
        ports = {"http": 80, "https": 443}
        return (theirs.scheme, theirs.hostname, theirs.port or ports.get(theirs.scheme)) == (
            ours.scheme,
            ours.hostname,
            ours.port or ports.get(ours.scheme),
        )
    except ValueError:
        return False


class ReadRequest(Request):
    """A request whose body has been read, parsed and validated within bounds."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._bytes, self._value = body, value

    async def body(self) -> bytes:
        """The body."""
        return self._bytes

    async def json(self) -> Any:
        """What the body says, as the route takes it: to validate that once more costs nothing."""
        return self._value


class GuardedRoute(APIRoute):
    """A route that checks who asks, then reads the body, then does what it does: what this does in the store asks for the right again."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        access: Access,
        summary: str,
        method: str = "GET",
        *,
        responses: dict[int | str, dict[str, Any]] = ERRORS,
        in_schema: bool = True,
    ) -> None:
        self.access = access
        super().__init__(
            path,
            endpoint,
            methods=[method],
            summary=summary,
            response_model=None,
            responses=responses,
            openapi_extra={"security": [{access.credential: []}]} if access.credential in SCHEMES else None,
            include_in_schema=in_schema,
        )

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.state.principal = await authorize(request, self.access)
            if self.body_field is not None:
                begun = time.monotonic()
                request = await self._read(request)
                if time.monotonic() - begun > FRESH_SECONDS:  # a body that comes slowly may outlive the rights to it
                    request.state.principal = await authorize(request, self.access)
            with permitted_by(permission_of(services_of(request), request.state.principal)):
                return await answer(request)

        return guarded

    async def _read(self, request: Request) -> ReadRequest:
        """The request with its body. Raises ApiError for one that breaks a bound, RequestValidationError for one that the route refuses."""
        services, principal, address = services_of(request), request.state.principal, address_of(request)
        is_open = self.access.credential == "none"
        most_values = VISITOR_VALUES if is_open or (principal is not None and is_visitor(principal)) else MAX_VALUES
        read = await read_body(
            request.scope,
            request.receive,
            partial(services.body_parser.parse, sender_of(principal, address), partial(self._parse, most_values)),
            most=SMALL_BODY_BYTES if is_open else MAX_BODY_BYTES,
            large=partial(large_body_slot, services, principal, address),
        )
        return ReadRequest(request, *read)

    def _parse(self, most_values: int, body: bytes) -> Any:
        """What a body says, as the route takes it."""
        assert self.body_field is not None
        value, errors = self.body_field.validate(parse_json(body, most_values), loc=("body",))
        if errors:
            raise RequestValidationError(errors)
        return value
