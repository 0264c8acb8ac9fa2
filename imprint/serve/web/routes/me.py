"""The routes of somebody's own account: password, keys, sessions, use, models."""

import time
from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint.serve.store.keys import Key
from imprint.serve.store.principal import Actor
from imprint.serve.web.access import MEMBER, MEMBER_BEFORE_CHANGE, SESSION, SESSION_BEFORE_CHANGE, GuardedRoute
from imprint.serve.web.models import describe_model, usable_models
from imprint.serve.web.page_bodies import KeyBody, PasswordBody, as_set
from imprint.serve.web.routes.session import describe, with_cookie
from imprint.serve.web.services import address_of, in_reading_thread, in_writing_thread, principal_of, services_of

DAY = 86_400


def routes() -> list[GuardedRoute]:
    """All of them."""
    return [
        GuardedRoute("/api/me", show, SESSION_BEFORE_CHANGE, "Who is signed in"),
        GuardedRoute("/api/me/password", change_password, MEMBER_BEFORE_CHANGE, "Change the password; all other sessions end", "POST"),
        GuardedRoute("/api/me/usage", usage, SESSION, "The tokens of today"),
        GuardedRoute("/api/me/keys", list_keys, MEMBER, "The API keys"),
        GuardedRoute("/api/me/keys", create_key, MEMBER, "Make an API key, which is shown once", "POST"),
        GuardedRoute("/api/me/keys/{key_id}", revoke_key, MEMBER, "End an API key", "DELETE"),
        GuardedRoute("/api/me/sessions", list_sessions, SESSION, "The sessions"),
        GuardedRoute("/api/me/sessions/{session_id}", end_session, SESSION, "End a session", "DELETE"),
        GuardedRoute("/api/models", list_models, SESSION, "The models that may be used"),
    ]


async def show(request: Request) -> Response:
    """Name, role, and whether the password must be changed."""
    return JSONResponse(describe(principal_of(request)))


async def change_password(request: Request, body: PasswordBody) -> Response:
    """All sessions end, and a new one begins."""
    services, principal, address = services_of(request), principal_of(request), address_of(request)
    change = partial(services.store.sessions.change_password, principal, body.old, body.new, address)
    begun = await services.door.change(principal, change)
    return with_cookie(request, begun)


async def usage(request: Request) -> Response:
    """What is used, what is left, and when a new day begins."""
    services, principal, address = services_of(request), principal_of(request), address_of(request)
    used = await in_reading_thread(services, principal, address, partial(services.store.quota.usage, principal, address))
    return JSONResponse({"limit": used.limit, "used": used.used, "left": used.remaining, "resets_at": used.resets_at})


async def list_models(request: Request) -> Response:
    """The base and the runs on it, with licences and notes."""
    models = usable_models(services_of(request), principal_of(request))
    return JSONResponse({"models": [describe_model(model) for model in models]})


async def list_keys(request: Request) -> Response:
    """Without the keys themselves, which nothing shows again."""
    services, principal = services_of(request), principal_of(request)
    read = partial(services.store.keys.list, principal.account_id)
    keys = await in_reading_thread(services, principal, address_of(request), read)
    return JSONResponse({"keys": [describe_key(key) for key in keys]})


def describe_key(key: Key) -> dict[str, Any]:
    """A key as lists show it."""
    return {**asdict(key), "models": None if key.models is None else sorted(key.models)}


async def create_key(request: Request, body: KeyBody) -> Response:
    """The one time that the key is shown."""
    store, principal = services_of(request).store, principal_of(request)
    expires_at = None if body.expires_in_days is None else time.time() + body.expires_in_days * DAY
    actor = Actor.of(principal, address_of(request))

    def create() -> Any:
        return store.keys.create(principal.account_id, actor=actor, name=body.name, models=as_set(body.models), expires_at=expires_at)

    made = await in_writing_thread(services_of(request), principal, address_of(request), create)
    return JSONResponse({"key": made.key, **describe_key(made.info)}, status_code=201)


async def revoke_key(request: Request, key_id: str) -> Response:
    """The next request with it is refused."""
    services, principal = services_of(request), principal_of(request)
    actor = Actor.of(principal, address_of(request))
    await in_writing_thread(
        services, principal, address_of(request), lambda: services.store.keys.revoke(principal.account_id, key_id, actor)
    )
    return JSONResponse({"revoked": True})


async def list_sessions(request: Request) -> Response:
    """Where the account is signed in; a guest sees its own session alone."""
    services, principal = services_of(request), principal_of(request)
    read = partial(services.store.sessions.list, principal)
    sessions = await in_reading_thread(services, principal, address_of(request), read)
    return JSONResponse({"sessions": [asdict(session) for session in sessions]})


async def end_session(request: Request, session_id: str) -> Response:
    """One of one's own."""
    services, principal = services_of(request), principal_of(request)
    await in_writing_thread(services, principal, address_of(request), lambda: services.store.sessions.revoke(principal, session_id))
    return JSONResponse({"ended": True})
