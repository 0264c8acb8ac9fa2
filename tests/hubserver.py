"""A hub on this machine for the tests: the part of the Hugging Face hub's API that a download asks, well behaved or not."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
NEXT_COMMIT: Final = "f" * 40
LARGE: Final = (".safetensors", ".bin", ".model")
LINES: Final = b"\r\n"


@dataclass
class Repository:
    """A model of the hub: its files at each commit, and the commits of its branches."""

    files: dict[str, bytes]
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> what the listing says of a file, instead of the truth."""


@dataclass
class HubServer:
    """A hub, what it was asked, and how it misbehaves."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """"METHOD path [range]" of every request."""
    trick: Callable[["Request"], bool] | None = None
    """Called before each answer; True if it has answered."""

    def requests(self, part: str) -> list[str]:
        """The requests whose text holds this."""
        return [text for text in self.asked if part in text]


class Request(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: HubServer, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing is printed."""

    def do_GET(self) -> None:
        """Answer as the hub does."""
        self.hub.asked.append(f"GET {self.path} {self.headers.get('range', '')}".strip())
        if self.hub.trick is not None and self.hub.trick(self):
            return
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/").split("/"))
        elif path == "/api/models":
            self.json([{"id": name} for name in self.hub.repositories])
        else:
            owner, name, _resolve, commit, *parts = path.lstrip("/").split("/")
            repository = self.hub.repositories[f"{owner}/{name}"]
            assert commit in repository.refs.values()
            self.content(repository.files["/".join(parts)])

    def _api(self, parts: list[str]) -> None:
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None:
            self.error(404, "RepoNotFound")
        elif parts[2] == "revision":
            revision = "/".join(parts[3:])
            commit = repository.refs.get(revision, revision if revision in repository.refs.values() else None)
            self.json({"sha": commit}) if commit else self.error(404, "RevisionNotFound")
        elif parts[2] == "refs":
            self.json({"branches": [{"name": name} for name in repository.refs], "tags": []})
        else:
            folders = {name.partition("/")[0] for name in repository.files if "/" in name}
            entries = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]
            self.json(entries + [listed(name, content) | repository.listed.get(name, {}) for name, content in repository.files.items()])

    def json(self, value: object) -> None:
        """Answer with JSON."""
        self.body(200, json.dumps(value).encode(), {"content-type": "application/json"})

    def error(self, status: int, code: str = "", **headers: str) -> None:
        """Refuse as the hub does."""
        self.body(status, b"{}", {"x-error-code": code, **headers})

    def content(self, content: bytes) -> bool:
        """Answer with a file, or the part that was asked for; True."""
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(content) > 0:
            self.error(416)
        elif start:
            self.body(206, content[start:], {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"})
        else:
            self.body(200, content, {"etag": f'"{hashlib.sha256(content).hexdigest()}"', "x-linked-size": str(len(content))})
        return True

    def body(self, status: int, content: bytes, headers: dict[str, str], *, length: int | None = None) -> None:
        """Send an answer; `length` is what it says of its own length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def cut(self, content: bytes, length: int) -> bool:
        """Send the beginning of an answer and close the connection."""
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        headers = {"content-range": f"bytes {start}-{start + length - 1}/{start + length}"} if start else {}
        self.body(206 if start else 200, content, headers, length=length)
        self.close_connection = True
        return True


def listed(name: str, content: bytes) -> dict[str, Any]:
    """What the listing says of a file: large ones are kept in Git LFS."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def model_files(folder: Path, **more: bytes) -> dict[str, bytes]:
    """The files of a folder, and more of them."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()} | more


def drip(request: Request, seconds: float) -> bool:
    """Send the bytes of headers that never end, one at a time."""
    ends = time.monotonic() + seconds
    try:
        request.wfile.write(b"HTTP/1.1 200 OK" + LINES + b"x-slow: ")
        while time.monotonic() < ends:
            request.wfile.write(b"a")
            time.sleep(0.05)
    except OSError:
        pass
    request.close_connection = True
    return True


@contextmanager
def hub_server(cache: Path) -> Iterator[HubServer]:
    """A hub that HF_ENDPOINT names, with an empty cache, and little patience of those who ask it."""
    with pytest.MonkeyPatch.context() as patched:
        hub = HubServer("")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Request, hub))
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who asks may have left
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        for name in (
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_HOME",
            *(name for name in os.environ if name.lower().endswith("_proxy")),
        ):
            patched.delenv(name, raising=False)
        patched.setenv("HF_ENDPOINT", hub.url)
        patched.setenv("HF_HUB_CACHE", str(cache))
        patched.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.5")
        patched.setattr(constants, "HF_HUB_OFFLINE", False)
        patched.setattr("imprint.loading.hub.transfer.RetryPolicy.before", lambda _patience, _retry: 0.01)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
