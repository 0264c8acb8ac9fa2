"""The page: its files, which are all that a browser needs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from imprint.serve.web.access import OPEN, GuardedRoute
from imprint.serve.web.errors import UNKNOWN, ApiError

FOLDER: Final = Path(__file__).parents[2] / "page"
TYPES: Final = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    content: bytes
    """Its bytes."""
    media_type: str
    """What it is."""
    tag: str
    """By which a browser asks whether it has changed."""


def routes() -> list[GuardedRoute]:
    """All of them."""
    return [
        GuardedRoute("/", show_page, OPEN, "The page", in_schema=False),
        GuardedRoute("/page/{name}", show_file, OPEN, "A file of the page", in_schema=False),
    ]


@cache
def page_files() -> Mapping[str, PageFile]:
    """Name -> file. Only these are served: no name becomes a path."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in TYPES:
            content = path.read_bytes()
            found[path.name] = PageFile(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return MappingProxyType(found)


async def show_page(request: Request) -> Response:
    """The document."""
    return _answer(request, page_files()["index.html"])


async def show_file(request: Request, name: str) -> Response:
    """A script, the style sheet, the icon."""
    file = page_files().get(name)
    if file is None:
        raise ApiError("not_found", UNKNOWN)
    return _answer(request, file)


def _answer(request: Request, file: PageFile) -> Response:
    """The file, or that the browser has it already: it asks each time, so that all files are of one version."""
    headers = {"Cache-Control": "no-cache", "ETag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):  # with its quotes, it is no part of another one
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
