"""A model of the hub -> a model folder: asks for its commit and files, and fetches what the cache lacks.

Every file is written under another name, compared with the hash that the hub lists, and only then put in its place; the record of the
commit comes last. So a killed download leaves nothing that looks whole, and the next one goes on from its last byte.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imprint.files.disk_errors import translate_disk_errors
from imprint.loading.hub import refusals
from imprint.loading.hub.cache import HubCache, check_space, size_of
from imprint.loading.hub.files import GIT_HASH, SHA256, HubFile, Listing, auxiliary_files, weight_index, weights
from imprint.loading.hub.name import COMMIT, HubName
from imprint.loading.hub.transfer import Hub, HubProblemError, ResponseHead, cache_root, download_lock, is_offline, open_hub, quoted
from imprint.messages import Bilingual, UserError, closest
from imprint.progress import Progress
from imprint.terminal import say

KB: Final = 10**3
MB: Final = 10**6
LARGE: Final = 50 * MB
"""From so many bytes on a download is told in megabytes."""
READ_BYTES: Final = 2**20
MAX_PAGES: Final = 50
"""Most pages of a listing, of a thousand files each."""
PAGE_TRIES: Final = 2
"""How often a page is requested that gets no answer."""
NO_LISTING: Final = ("its answer is not that of a hub", "回答不像模型站")
CUT_SHORT: Final = ("the server ends the file early", "服务器提前结束了文件")


@dataclass(frozen=True)
class HubModel:
    """A model of the hub that is on this disk."""

    folder: Path
    """The model folder, in the cache."""
    commit: str
    """The commit of its files, 40 hexadecimal digits."""


def fetch_model(name: HubName) -> HubModel:
    """The folder of a model of the hub, downloaded into Hugging Face's cache unless it is there.

    A commit that is there is opened without any network; for a branch or a tag the hub is asked which commit it is now, and where it gives
    no answer, the copy in the cache is used and that is told. Raises UserError where there is neither, for a full disk, and for files that
    are not those listed.
    """
    cache = HubCache(cache_root(), name.repository)
    cached = _cached(cache, name)
    if cached is not None and name.commit is not None and cache.is_complete(cached.commit):
        return cached
    if is_offline():
        if cached is None:
            raise refusals.offline(name, cache.root)
        return cached
    hub = open_hub()
    try:
        commit = _commit(hub, name)
        if cache.is_complete(commit):
            cache.write_ref(name, commit)
            return HubModel(cache.snapshot(commit), commit)
        listing = _listing(hub, name.at(commit))
    except HubProblemError as problem:
        return _instead(hub, name, problem, cached)
    return _download(hub, name, listing, cache)


def _cached(cache: HubCache, name: HubName) -> HubModel | None:
    """The copy in the cache, if it is whole as far as can be told."""
    commit = cache.commit_of(name)
    if commit is None or not (cache.is_complete(commit) or cache.is_usable(commit)):
        return None
    return HubModel(cache.snapshot(commit), commit)


def _instead(hub: Hub, name: HubName, problem: HubProblemError, cached: HubModel | None) -> HubModel:
    """The copy in the cache, where the hub gives no answer; raises UserError if there is none, or the hub has no such revision."""
    if cached is None or problem.code == "RevisionNotFound":
        if problem.status in (401, 403, 404):
            raise refusals.refused(name, hub.endpoint, problem, _near(hub, name, problem)) from None
        raise refusals.unreachable(name, hub.endpoint, problem) from None
    notice = Bilingual(
        f"{name}: {hub.endpoint} cannot be asked for a newer state ({problem.reason.english}); the copy in the cache is used, commit "
        f"{cached.commit}",
        f"无法向 {hub.endpoint} 查询更新（{problem.reason.chinese}），使用缓存中的版本",
    )
    say(notice.line, stream=sys.stderr)
    return cached


def _ask(hub: Hub, path: str) -> tuple[Any, str | None]:
    """The page at a path of the hub; asked again where that may help."""
    for retry in range(1, PAGE_TRIES):
        try:
            return hub.page(path)
        except HubProblemError as problem:
            pause = problem.pause or hub.policy.before(retry)
            if not problem.may_pass or pause > hub.policy.longest_pause:
                raise
            time.sleep(pause)
    return hub.page(path)


def _commit(hub: Hub, name: HubName) -> str:
    """The commit that a revision is now."""
    value, _next = _ask(hub, f"/api/models/{name.repository}/revision/{quoted(name.revision).replace('/', '%2F')}")
    commit = value.get("sha") if isinstance(value, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise HubProblemError(*NO_LISTING)
    return commit


def _listing(hub: Hub, name: HubName) -> Listing:
    """All files of a commit."""
    files: dict[str, HubFile] = {}
    path: str | None = f"/api/models/{name.repository}/tree/{name.revision}?recursive=true"
    for _page in range(MAX_PAGES):
        assert path is not None
        value, path = _ask(hub, path)
        if not isinstance(value, list):
            raise HubProblemError(*NO_LISTING)
        files |= {file.name: file for file in map(_file, value) if file is not None}
        if path is None:
            return Listing(name.revision, files)
    raise HubProblemError("its list of files has no end", "文件列表没有尽头")


def _file(entry: object) -> HubFile | None:
    """A file of a listing; None for a folder."""
    match entry:
        case {"type": "directory"}:
            return None
        case {"path": str(path), "lfs": {"oid": str(digest), "size": int(size)}} if SHA256.fullmatch(digest) and size >= 0:
            return HubFile(path, size, digest)
        case {"lfs": dict()}:
            pass
        case {"path": str(path), "oid": str(digest), "size": int(size)} if GIT_HASH.fullmatch(digest) and size >= 0:
            return HubFile(path, size, digest)
    raise HubProblemError(*NO_LISTING)


def _near(hub: Hub, name: HubName, problem: HubProblemError) -> list[str]:
    """Names like the one that the hub does not know; none where it does not say."""
    owner, _slash, short = name.repository.partition("/")
    try:
        if problem.code == "RevisionNotFound":
            refs, _next = hub.page(f"/api/models/{name.repository}/refs")
            there = [ref["name"] for kind in ("branches", "tags") for ref in refs.get(kind, [])]
            return closest(name.revision, there, count=3) or there[:3]
        there = []
        for query in (f"author={quoted(owner)}&search={quoted(short[:4])}&limit=200", f"search={quoted(short)}&limit=20"):
            found, _next = hub.page(f"/api/models?{query}")
            there += [str(model["id"]) for model in found]
        return closest(name.repository, there, count=3)
    except (HubProblemError, KeyError, TypeError, AttributeError):
        return []


def _download(hub: Hub, name: HubName, listing: Listing, cache: HubCache) -> HubModel:
    """Fetch what the cache lacks of a commit: auxiliary files, then weights, config.json last in its place."""
    repository, commit = name.repository, listing.commit
    fetch = _Fetch(hub, name.at(commit), name, cache)
    auxiliary = auxiliary_files(listing, repository)
    waiting = Bilingual(f"{name}: another process downloads it; waiting for that", "另一个进程正在下载它，等待中")
    with translate_disk_errors(cache.folder), download_lock(cache.lock, waiting):
        folder = cache.snapshot(commit)
        index = weight_index(listing)
        first = [*auxiliary, *([index] if index is not None else [])]
        fetch.all(first)
        if index is not None:
            cache.link(commit, index)
        large = weights(listing, repository, _shards(folder / index.name) if index is not None else ())
        fetch.all(large)
        wanted = [*large, *first]
        for file in sorted(wanted, key=lambda file: file.name == "config.json"):
            cache.link(commit, file)
        cache.record_complete(name, commit, wanted)
    say(Bilingual(f"{name}: commit {commit}, in {folder}", "已下载并校验").line, stream=sys.stderr)
    return HubModel(folder, commit)


def _shards(index: Path) -> list[str]:
    from imprint.models.weight_files import indexed_shards

    return indexed_shards(index)


@dataclass(frozen=True)
class _Fetch:
    """Brings files of one commit into the blobs of the cache."""

    hub: Hub
    name: HubName
    """The model at its commit."""
    requested: HubName
    """The model as the user named it."""
    cache: HubCache

    def all(self, files: Sequence[HubFile]) -> None:
        """Fetch those of the files that are not there. Raises UserError before the first one if the disk has no room for all."""
        lacking = [file for file in files if self.cache.lacks(self.name.revision, file)]
        if not lacking:
            return
        check_space(self.cache, lacking)
        (self.cache.folder / "blobs").mkdir(parents=True, exist_ok=True)
        total, there = sum(file.size for file in lacking), sum(size_of(self.cache.partial(file)) for file in lacking)
        unit, size = ("MB", MB) if total >= LARGE else ("kB", KB)
        start = _units(min(there, total), size)
        with Progress(
            Bilingual("download", "下载"), _units(total, size), unit, start=start, subject=str(self.requested), errors=True
        ) as progress:
            meter = _Meter(progress, min(there, total), size)
            for file in lacking:
                meter.file = file.name
                self._one(file, meter.add)

    def _one(self, file: HubFile, add: Callable[[int], None]) -> None:
        """Fetch one file, whole and with the listed hash, or raise UserError."""
        partial = self.cache.partial(file)
        found = None
        for _attempt in (1, 2):
            with translate_disk_errors(partial):
                found = self._fill(file, partial, add) or _difference(partial, file)
                if found is None:
                    partial.replace(self.cache.blob(file))
                    return
                add(-size_of(partial))
                partial.unlink(missing_ok=True)
        assert found is not None
        raise refusals.not_what_was_listed(self.requested, file.name, self.hub.endpoint, found)

    def _fill(self, file: HubFile, partial: Path, add: Callable[[int], None]) -> Bilingual | None:
        """Append to a partial file until it has its size; the problem if more came."""
        policy, tries = self.hub.policy, 0
        partial.touch()
        most = size_of(partial)
        while (start := size_of(partial)) < file.size:
            problem = HubProblemError(*CUT_SHORT)
            try:
                self._append(file, partial, start, add)
            except HubProblemError as error:
                problem = error
            done = size_of(partial)
            if problem.status == 416 and start:  # it cannot go on from there
                add(-done)
                partial.unlink()
                partial.touch()
            elif done >= file.size:
                break
            elif not problem.may_pass:
                raise self._failure(file, done, problem)
            tries, most = (1, done) if done - most >= READ_BYTES else (tries + 1, most)
            pause = problem.pause or policy.before(tries)
            if tries >= policy.tries or pause > policy.longest_pause:
                raise self._failure(file, done, problem)
            time.sleep(pause)
        if size_of(partial) > file.size:
            return Bilingual(f"it has more than {file.size:,} bytes", f"超过 {file.size:,} 字节")
        return None

    def _append(self, file: HubFile, partial: Path, start: int, add: Callable[[int], None]) -> None:
        """Write what one request brings after the `start` bytes that are there, up to one byte more than the file has."""
        path = f"/{self.name.repository}/resolve/{self.name.revision}/{quoted(file.name)}"
        parts = self.hub.read(path, start)
        with partial.open("r+b") as out:
            out.seek(start)
            for part in _content(parts, start):
                if part is None:  # the server begins at the first byte again
                    add(-out.tell())
                    out.seek(0)
                    out.truncate()
                    continue
                out.write(part[: file.size + 1 - out.tell()])
                add(len(part))
                if out.tell() > file.size:
                    return

    def _failure(self, file: HubFile, done: int, problem: HubProblemError) -> UserError:
        if problem.status in (401, 403):
            return refusals.refused(
                self.requested, self.hub.endpoint, HubProblemError(problem.reason.english, problem.reason.chinese, status=403), ()
            )
        if problem.status == 429:
            return refusals.unreachable(self.requested, self.hub.endpoint, problem)
        return refusals.broke_off(self.requested, file.name, done, file.size, problem)


def _content(parts: Iterator[ResponseHead | bytes], start: int) -> Iterator[bytes | None]:
    """The content of an answer; None before it if it does not begin at byte `start`, as was asked."""
    for part in parts:
        if not isinstance(part, ResponseHead):
            yield part
        elif start and (part.status != 206 or not part.headers.get("content-range", "").startswith(f"bytes {start}-")):
            if part.status == 206:
                raise HubProblemError("it sends another part than was asked for", "返回的不是所请求的部分", status=416)
            yield None


def _difference(partial: Path, file: HubFile) -> Bilingual | None:
    """How a fetched file differs from the listed one; None if it is the same."""
    digest = hashlib.sha256() if SHA256.fullmatch(file.digest) else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with partial.open("rb") as content:
        while part := content.read(READ_BYTES):
            digest.update(part)
    if digest.hexdigest() == file.digest:
        return None
    return Bilingual(
        f"its hash is {digest.hexdigest()[:16]}... and not {file.digest[:16]}...",
        f"哈希是 {digest.hexdigest()[:16]}…，而不是 {file.digest[:16]}…",
    )


class _Meter:
    """Counts bytes and shows them in units of so many bytes."""

    def __init__(self, progress: Progress, count: int, unit: int) -> None:
        self.file = ""
        """The file that is being fetched."""
        self._progress = progress
        self._bytes = count
        self._unit = unit
        self._shown = _units(count, unit)

    def add(self, count: int) -> None:
        """So many bytes came, or less than none if some were thrown away."""
        self._bytes += count
        shown = _units(self._bytes, self._unit)
        self._progress.advance(shown - self._shown, {"file": self.file})
        self._shown = shown


def _units(count: int, unit: int) -> int:
    """Bytes in units of so many bytes, rounded up."""
    return -(-count // unit)
