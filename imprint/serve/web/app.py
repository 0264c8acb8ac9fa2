"""The application: its routes, and what every request passes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint import __version__
from imprint.serve.generation.job import Backend, RefusedError
from imprint.serve.store.errors import StoreError
from imprint.serve.store.store import Store
from imprint.serve.web.access import OPEN, GuardedRoute
from imprint.serve.web.background_answers import BackgroundAnswers
from imprint.serve.web.errors import ApiError, answer_error
from imprint.serve.web.housekeeping import watching_rights
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.middleware import RequestMiddleware
from imprint.serve.web.openapi import SCHEMES
from imprint.serve.web.routes import admin, chats, generations, legacy, me, openai, operations, page, session
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings

KEEP_SECONDS = 1.0
DESCRIPTION = (
    "OpenAI-compatible answers of a base and the models tuned on it. Errors have one shape; their messages are in English and Chinese."
)


def create_app(backend: Backend, store: Store, settings: WebSettings) -> FastAPI:
    """The application over a backend and a store; `drain` ends its answers."""
    services = Services(backend, store, settings, Metrics(backend))
    store.observe_writes(services.metrics.write_seconds.observe)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with watching_rights(services):
            yield

    app = FastAPI(
        title="Imprint",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.services, app.state.background_answers, app.state.document = services, BackgroundAnswers(), None
    app.router.routes.extend(all_routes(settings))
    for problem in (ApiError, RefusedError, StoreError, RequestValidationError, HTTPException):
        app.add_exception_handler(problem, answer_error)
    app.add_middleware(RequestMiddleware, settings=settings, metrics=services.metrics)
    return app


async def drain(app: FastAPI) -> None:
    """End the service's answers: none begins, those that run may end within the grace, and all are kept."""
    await app.state.services.drain()
    await app.state.background_answers.wait(KEEP_SECONDS)


def all_routes(settings: WebSettings) -> list[GuardedRoute]:
    """Every route; the form of 2023 only where it is asked for."""
    return [
        *page.routes(),
        *operations.routes(),
        *openai.routes(),
        *session.routes(),
        *me.routes(),
        *chats.routes(),
        *generations.routes(),
        *admin.routes(),
        *(legacy.routes() if settings.legacy else ()),
        GuardedRoute("/openapi.json", document, OPEN, "The OpenAPI document", in_schema=False),
    ]


async def document(request: Request) -> Response:
    """The OpenAPI document, kept as it was first written: it never changes, and anybody may ask for it."""
    state = request.app.state
    if state.document is None:
        found: dict[str, Any] = request.app.openapi()
        components = {**found.get("components", {}), "securitySchemes": dict(SCHEMES)}
        state.document = JSONResponse({**found, "components": components}).body
    return Response(state.document, media_type="application/json")
