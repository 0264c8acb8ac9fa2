"""The application: its routes, and what every request passes."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint import __version__
from imprint.serve.generation.job import Backend, RefusedError
from imprint.serve.store.errors import StoreError
from imprint.serve.web.access import OPEN, GuardedRoute
from imprint.serve.web.entry import Entry
from imprint.serve.web.errors import ApiError, answer_error
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.routes import legacy, openai, operations
from imprint.serve.web.routes.schema import SCHEMES
from imprint.serve.web.services import AccountStore, Services
from imprint.serve.web.settings import WebSettings

DESCRIPTION = (
    "OpenAI-compatible answers of a base and the models tuned on it. Errors have one shape; their messages are in English and Chinese."
)


def create_app(backend: Backend, store: AccountStore, settings: WebSettings) -> FastAPI:
    """The application over a backend and a store; `app.state.services.drain` ends it."""
    services = Services(backend, store, settings, Metrics(backend))
    app = FastAPI(
        title="Imprint",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.router.routes.extend(all_routes(settings))
    for problem in (ApiError, RefusedError, StoreError, RequestValidationError, HTTPException):
        app.add_exception_handler(problem, answer_error)
    app.add_middleware(Entry, settings=settings, metrics=services.metrics)
    return app


def all_routes(settings: WebSettings) -> list[GuardedRoute]:
    """Every route; the form of 2023 only where it is asked for."""
    return [
        *operations.routes(),
        *openai.routes(),
        *(legacy.routes() if settings.legacy else ()),
        GuardedRoute("/openapi.json", document, access=OPEN, in_schema=False),
    ]


async def document(request: Request) -> Response:
    """The OpenAPI document."""
    found: dict[str, Any] = request.app.openapi()
    components = {**found.get("components", {}), "securitySchemes": dict(SCHEMES)}
    return JSONResponse({**found, "components": components})
