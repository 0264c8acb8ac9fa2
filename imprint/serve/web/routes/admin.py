"""The routes of admins: accounts, requests for one, settings, the audit log, the queue, a backup."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint.messages import Bilingual, UserError
from imprint.serve.store.accounts import Account, CreatedAccount
from imprint.serve.store.errors import StoreError
from imprint.serve.store.principal import Actor
from imprint.serve.web.access import ADMIN, GuardedRoute
from imprint.serve.web.errors import ApiError
from imprint.serve.web.hints import hint_for
from imprint.serve.web.models import describe_model
from imprint.serve.web.page_bodies import ApproveBody, ChangeBody, NewUserBody, SettingsBody, as_set
from imprint.serve.web.services import (
    address_of,
    in_backup_thread,
    in_deleting_thread,
    in_reading_thread,
    in_writing_thread,
    principal_of,
    services_of,
)

NO_BACKUP = Bilingual("The backup cannot be written; is the disk full?", "无法写入备份；磁盘是否已满？")
MAX_NUMBER = 2**62
T = TypeVar("T")
AccountId = Annotated[int, Path(ge=1, le=MAX_NUMBER)]


def routes() -> list[GuardedRoute]:
    """All of them."""

    def route(path: str, endpoint: Any, summary: str, method: str = "GET") -> GuardedRoute:
        return GuardedRoute(f"/api/admin{path}", endpoint, ADMIN, summary, method)

    return [
        route("/users", list_users, "The accounts"),
        route("/users", create_user, "Make an account; its one-time password is shown once", "POST"),
        route("/users/{account_id}", change_user, "Change role, rights, quota, or disable", "PATCH"),
        route("/users/{account_id}", delete_user, "Delete an account with its chats", "DELETE"),
        route("/users/{account_id}/reset-password", reset_password, "Give a one-time password, which is shown once", "POST"),
        route("/users/{account_id}/end-sessions", end_sessions, "End all sessions of an account", "POST"),
        route("/requests", list_requests, "Requests for an account"),
        route("/requests/{request_id}/approve", approve, "Make the account; its one-time password is shown once", "POST"),
        route("/requests/{request_id}/decline", decline, "Decline a request", "POST"),
        route("/audit", audit, "The audit log, newest first"),
        route("/queue", queue, "What the engine does now"),
        route("/models", list_models, "All models"),
        route("/settings", show_settings, "Settings of the service"),
        route("/settings", change_settings, "Change them", "PUT"),
        route("/backup", backup, "Write a backup beside the database", "POST"),
    ]


def actor_of(request: Request) -> Actor:
    """Who asks, for the audit log."""
    return Actor.of(principal_of(request), address_of(request))


def describe(account: Account) -> dict[str, Any]:
    """An account as JSON."""
    return {**asdict(account), "models": None if account.models is None else sorted(account.models)}


def _created(made: CreatedAccount) -> Response:
    return JSONResponse({"user": describe(made.account), "password": made.password}, status_code=201)


async def _read(request: Request, function: Callable[[], T]) -> T:
    """What an admin reads from the store."""
    return await in_reading_thread(services_of(request), principal_of(request), address_of(request), function)


async def list_users(request: Request) -> Response:
    """By name."""
    accounts = await _read(request, services_of(request).store.accounts.list)
    return JSONResponse({"users": [describe(account) for account in accounts]})


async def create_user(request: Request, body: NewUserBody) -> Response:
    """With a one-time password, which nothing shows again."""
    services, actor = services_of(request), actor_of(request)
    return _created(
        await services.door.change(
            principal_of(request),
            lambda: services.store.accounts.create(
                body.name,
                actor=actor,
                role=body.role,
                models=as_set(body.models),
                tokens_a_day=body.tokens_a_day,
                concurrency=body.concurrency,
                contact=body.contact,
            ),
        )
    )


async def change_user(request: Request, account_id: AccountId, body: ChangeBody) -> Response:
    """What the body has; sessions end where rights shrink, and live streams with them."""
    accounts, models = services_of(request).store.accounts, as_set(body.models)
    change = partial(
        accounts.change,
        account_id,
        actor=actor_of(request),
        role=body.role,
        tokens_a_day=body.tokens_a_day,
        concurrency=body.concurrency,
        models=("all" if models is None else models) if "models" in body.model_fields_set else None,
        disabled=body.disabled,
    )
    return JSONResponse(
        {"user": describe(await in_writing_thread(services_of(request), principal_of(request), address_of(request), change))}
    )


async def delete_user(request: Request, account_id: AccountId) -> Response:
    """With its sessions, keys and chats."""
    services, actor = services_of(request), actor_of(request)
    await in_deleting_thread(services, principal_of(request), lambda: services.store.accounts.delete(account_id, actor))
    return JSONResponse({"deleted": True})


async def reset_password(request: Request, account_id: AccountId) -> Response:
    """All its sessions end."""
    services, actor = services_of(request), actor_of(request)
    password = await services.door.change(principal_of(request), lambda: services.store.accounts.reset_password(account_id, actor))
    return JSONResponse({"password": password})


async def end_sessions(request: Request, account_id: AccountId) -> Response:
    """The account must sign in again everywhere."""
    services, actor = services_of(request), actor_of(request)
    await in_writing_thread(
        services, principal_of(request), address_of(request), lambda: services.store.sessions.end_all(account_id, actor)
    )
    return JSONResponse({"ended": True})


async def list_requests(request: Request, everything: Annotated[bool, Query(alias="all")] = False) -> Response:  # noqa: FBT002 (a query)
    """Those that wait for an answer, oldest first; `all`: the decided ones, too."""
    found = await _read(request, partial(services_of(request).store.requests.list, open_only=not everything))
    return JSONResponse({"requests": [asdict(one) for one in found]})


async def approve(request: Request, request_id: str, body: ApproveBody) -> Response:
    """Make the account, with these rights."""
    services, actor = services_of(request), actor_of(request)
    return _created(
        await services.door.change(
            principal_of(request),
            lambda: services.store.requests.approve(
                request_id,
                actor,
                name=body.name,
                models=as_set(body.models),
                tokens_a_day=body.tokens_a_day,
                concurrency=body.concurrency,
            ),
        )
    )


async def decline(request: Request, request_id: str) -> Response:
    """No account is made."""
    services, actor = services_of(request), actor_of(request)
    await in_writing_thread(
        services, principal_of(request), address_of(request), lambda: services.store.requests.decline(request_id, actor)
    )
    return JSONResponse({"declined": True})


async def audit(
    request: Request,
    before: Annotated[int | None, Query(ge=1, le=MAX_NUMBER)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """`before`: the number of the last entry of the page before."""
    entries = await _read(request, partial(services_of(request).store.audit.list, before=before, limit=limit))
    return JSONResponse({"entries": [asdict(entry) for entry in entries]})


async def queue(request: Request) -> Response:
    """Queue, running answers, the budget of the cache, and what to do about long waits."""
    backend = services_of(request).backend
    now = backend.statistics()
    hint = hint_for(now)
    return JSONResponse({**asdict(now), "ready": backend.ready(), "hint": None if hint is None else hint.line})


async def list_models(request: Request) -> Response:
    """Whoever may use them."""
    return JSONResponse({"models": [describe_model(model) for model in services_of(request).backend.models()]})


async def show_settings(request: Request) -> Response:
    """Where guests are let in."""
    services = services_of(request)
    return JSONResponse({"guests": await _read(request, services.store.settings.guests), "public": services.settings.public})


async def change_settings(request: Request, body: SettingsBody) -> Response:
    """At once."""
    services, actor = services_of(request), actor_of(request)
    await in_writing_thread(
        services, principal_of(request), address_of(request), lambda: services.store.settings.set_guests(body.guests, actor)
    )
    return await show_settings(request)


async def backup(request: Request) -> Response:
    """A file in the folder `backups` of the data; no part of its name comes from the request."""
    services, actor = services_of(request), actor_of(request)

    def write() -> str:
        try:
            return services.store.backups.write(actor)
        except StoreError:
            raise
        except (OSError, UserError) as error:
            raise ApiError("store_unavailable", error.message if isinstance(error, UserError) else NO_BACKUP) from error

    return JSONResponse({"file": await in_backup_thread(services, write)}, status_code=201)
