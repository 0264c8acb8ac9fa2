"""The routes for operators: health and metrics."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imprint.serve.web.access import OPEN, OPERATOR, GuardedRoute
from imprint.serve.web.services import services_of


def routes() -> list[GuardedRoute]:
    """All of them."""
    return [
        GuardedRoute("/health/live", live, OPEN, "Whether the process answers"),
        GuardedRoute("/health/ready", ready, OPEN, "Whether models answer", responses={503: {"description": "Not now"}}),
        GuardedRoute("/metrics", metrics, OPERATOR, "Figures for Prometheus", in_schema=False),
    ]


async def live() -> Response:
    """200 while the process answers at all."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> Response:
    """200 where answers are given; 503 while the model loads or is rebuilt, without a database, and once the service is ending."""
    if services_of(request).ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready"}, status_code=503, headers={"Retry-After": "5"})


async def metrics(request: Request) -> Response:
    """All figures, on this machine or with an admin's key."""
    return Response(services_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
