"""The routes of a visitor: sign in, come as a guest, sign out, ask for an account."""

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint import __version__
from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError
from imprint.serve.store.login import Login
from imprint.serve.store.principal import Principal
from imprint.serve.web.access import SESSION_BEFORE_CHANGE, VISITOR, GuardedRoute, cookie_name, credential_of, lets_guests_in
from imprint.serve.web.errors import ApiError
from imprint.serve.web.page_bodies import AccountRequestBody, LoginBody
from imprint.serve.web.services import address_of, in_writing_thread, services_of

SESSION_SECONDS = 7 * 86_400
NO_GUESTS = Bilingual("Guests are not let in here. Sign in, or ask for an account.", "此处不接待访客，请登录或申请账号。")


def routes() -> list[GuardedRoute]:
    """All of them."""
    return [
        GuardedRoute("/api/session", show, VISITOR, "Who is signed in, and whether guests are let in"),
        GuardedRoute("/api/session", login, VISITOR, "Sign in", "POST"),
        GuardedRoute("/api/session/guest", guest, VISITOR, "Come as a guest", "POST"),
        GuardedRoute("/api/session", logout, SESSION_BEFORE_CHANGE, "Sign out", "DELETE"),
        GuardedRoute("/api/requests", request_account, VISITOR, "Ask for an account", "POST"),
    ]


async def show(request: Request) -> Response:
    """Without a session `me` is null."""
    services = services_of(request)
    credential = credential_of(request, "session")
    me = None if credential is None else await services.reads.call(partial(services.store.sessions.of, credential.secret))
    guests = await lets_guests_in(request)
    if me is not None and me.role == "guest" and not guests:
        me = None
    return JSONResponse({"me": None if me is None else describe(me), "guests": guests, "version": __version__})


def describe(principal: Principal) -> dict[str, object]:
    """Somebody for the page."""
    return {
        "name": principal.name,
        "role": principal.role,
        "must_change_password": principal.must_change_password,
        "tokens_a_day": principal.tokens_a_day,
        "concurrency": principal.concurrency,
    }


async def login(request: Request, body: LoginBody) -> Response:
    """Begin a session, never one that was there before."""
    services, credential = services_of(request), credential_of(request, "session")
    replaces = None if credential is None else credential.secret
    address = address_of(request)
    try:
        standing = services.store.sessions.standing(address)
        verify = partial(services.store.sessions.login, body.name, body.password, address, replaces=replaces)
        begun = await services.door.sign_in(address, standing, verify)
    except StoreError as error:
        if error.kind in {"credentials", "throttled"}:
            services.metrics.login_failures.inc()
        raise
    return with_cookie(request, begun)


async def guest(request: Request) -> Response:
    """Begin a guest's session, an owner of its own."""
    services = services_of(request)
    if not await lets_guests_in(request):
        raise ApiError("permission_denied", NO_GUESTS)
    return with_cookie(
        request, await in_writing_thread(services, None, address_of(request), lambda: services.store.sessions.guest(address_of(request)))
    )


def with_cookie(request: Request, begun: Login) -> Response:
    """Who has signed in, and the cookie of the session."""
    request.state.account = begun.principal.name
    response = JSONResponse({"me": describe(begun.principal)})
    response.set_cookie(
        cookie_name(request),
        begun.token,
        max_age=SESSION_SECONDS,
        path="/",
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


async def logout(request: Request) -> Response:
    """End the session, and a guest's chats with it."""
    credential = credential_of(request, "session")
    assert credential is not None
    services, secret = services_of(request), credential.secret
    await in_writing_thread(
        services, request.state.principal, address_of(request), lambda: services.store.sessions.end(secret, address_of(request))
    )
    response = JSONResponse({"me": None})
    response.delete_cookie(cookie_name(request), path="/", httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return response


async def request_account(request: Request, body: AccountRequestBody) -> Response:
    """Ask for an account; an admin decides. The answer does not tell whether the name is taken."""
    services, address = services_of(request), address_of(request)
    await in_writing_thread(
        services, None, address_of(request), lambda: services.store.requests.ask(body.name, body.contact, body.reason, address)
    )
    return JSONResponse({"asked": True}, status_code=202)
