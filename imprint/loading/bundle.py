"""A bundle: one archive to hand on, with what was tuned, its recipe, its report, checksums, and the name and licence of the base.

A plain tar, so that anything can look into it: `bundle.json` first, then the files that it lists with their SHA-256. Reading one runs
nothing and writes nowhere but into a folder of its own, and no more bytes than the archive has: a name that leaves the folder, a link, a
file with holes, a file that is not listed or not what was packed is refused.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Final

from imprint.errors import UserError
from imprint.files import atomic_folder, translate_disk_errors
from imprint.messages import Bilingual

FORMAT: Final = 1
MANIFEST: Final = "bundle.json"
SUFFIX: Final = ".tar"
MAX_MANIFEST_BYTES: Final = 2**20
READ_BYTES: Final = 2**20
LICENCE_FILES: Final = re.compile(r"(MODEL_)?LICEN[CS]E(\.\w+)?", re.IGNORECASE)


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle says of itself."""

    name: str
    """What the run was called."""
    method: str
    """How it was tuned: prefix, lora or full."""
    base: str
    """The base as the recipe names it."""
    licence: str
    """The base's licence, as far as its folder tells."""


def is_bundle(path: Path) -> bool:
    """Whether a file begins as a bundle does; what follows may be damaged."""
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
    except (tarfile.TarError, EOFError, OSError, ValueError):
        return False
    return first is not None and first.name == MANIFEST


def pack(out: Path, folder: Path, names: Sequence[str], facts: BundleFacts) -> None:
    """Write these files of a folder into the archive `out`; times and owners are left out, so that the same files are the same archive."""
    checksums = {name: _sha256((folder / name).open("rb")) for name in names}
    listed = json.dumps({"format": FORMAT, **asdict(facts), "sha256": checksums}, ensure_ascii=False, indent=2).encode()
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_entry(MANIFEST, len(listed)), io.BytesIO(listed))
        for name in names:
            with (folder / name).open("rb") as file:
                archive.addfile(_entry(name, os.fstat(file.fileno()).st_size), file)


def unpack_cached(path: Path) -> Path:
    """The folder that a bundle becomes, in the user's cache; any other path is given back as it is.

    An archive is unpacked once. Raises UserError where it is no bundle, or damaged, or holds what a bundle never holds.
    """
    if not path.is_file() or path.suffix != SUFFIX:
        return path
    try:
        digest = _sha256(path.open("rb"))
    except OSError as error:
        raise UserError(
            Bilingual(
                f"{path}: cannot be read: {error.strerror}. Get it again, or let yourself read it.",
                "无法读取：请重新获取，或检查读取权限。",
            )
        ) from error
    home = _cache() / f"{path.stem}-{digest[:12]}"
    if not home.is_dir():
        with translate_disk_errors(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".", dir=home.parent) as aside:  # of its own: two chats may begin at once
                unpack(path, Path(aside) / home.name)
                _take_name(Path(aside) / home.name, home)
    return home


def _take_name(folder: Path, home: Path) -> None:
    """Give a folder its name, unless another process has put the same one there meanwhile."""
    try:
        folder.rename(home)
    except OSError:
        if not home.is_dir():
            raise


def unpack(path: Path, home: Path) -> None:
    """Write the files of a bundle into the folder `home`, which appears complete or not at all.

    Raises UserError where the file is no bundle, or damaged, or holds what a bundle never holds.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            _unpack(archive, path, home)
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            Bilingual(
                f"{path}: is not a bundle, or is damaged ({error}). Get it again from where it was made.",
                "不是打包文件或已损坏：请重新获取。",
            )
        ) from error


def read_facts(home: Path) -> BundleFacts | None:
    """What the bundle that was unpacked into this folder says of itself; None for a folder that came from none.

    A stranger may have written it: what would steer a terminal is left out.
    """
    file = home / MANIFEST
    if not file.is_file():
        return None
    listed = json.loads(file.read_text(encoding="utf-8"))
    said = {name: str(listed.get(name, "")) for name in BundleFacts.__dataclass_fields__}
    return BundleFacts(**{name: "".join(filter(str.isprintable, text)) for name, text in said.items()})


def read_licence(base: Path) -> str:
    """What a base's folder says of its licence: the first line of the licence file, or `license:` of its README."""
    for file in sorted(base.iterdir()) if base.is_dir() else []:
        if LICENCE_FILES.fullmatch(file.name) and file.is_file():
            lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
            return f"{file.name}: {next((line for line in lines if line), 'empty')}"
    readme = base / "README.md"
    if readme.is_file():
        found = re.search(r"^license(?:_name)?:\s*(\S.*)$", readme.read_text(encoding="utf-8", errors="replace")[:4096], re.MULTILINE)
        if found:
            return found[1].strip()
    return "not said by the base's folder; look it up where the base came from"


def _unpack(archive: tarfile.TarFile, path: Path, home: Path) -> None:
    first = archive.next()
    if first is None or first.name != MANIFEST or not _plain(first) or first.size > MAX_MANIFEST_BYTES:
        raise UserError(
            Bilingual(
                f"{path}: does not begin with {MANIFEST}, so it is no bundle. Make one with `imprint export RUN --to bundle`.",
                "不是打包文件：请用 imprint export RUN --to bundle 生成。",
            )
        )
    content = _opened(archive, first).read()
    listed = json.loads(content)
    if listed.get("format") != FORMAT:
        raise UserError(
            Bilingual(
                f'{path}: "format" is {listed.get("format")!r}, this version reads {FORMAT}. Use the version of Imprint that wrote it.',
                f"打包格式不同，本版本只读 {FORMAT}：请使用写出它的 Imprint 版本。",
            )
        )
    checksums: Mapping[str, str] = dict(listed["sha256"])
    with atomic_folder(home) as part:
        (part / MANIFEST).write_bytes(content)
        missing = set(checksums)
        while (entry := archive.next()) is not None:
            if entry.name not in missing or not _plain(entry) or not _inside(entry.name):
                raise UserError(
                    Bilingual(
                        f"{path}: holds {entry.name!r}, which no bundle holds. Nothing was unpacked; do not trust its origin.",
                        "含有打包文件不应有的内容，未解包任何文件：请勿信任其来源。",
                    )
                )
            missing.discard(entry.name)
            place = part / entry.name
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                found = _sha256(_opened(archive, entry), file)
            if found != checksums[entry.name]:
                raise UserError(
                    Bilingual(
                        f"{path}: {entry.name!r} is not what was packed. The archive is damaged; get it again.",
                        "打包文件已损坏：请重新获取。",
                    )
                )
        if missing:
            raise UserError(
                Bilingual(f"{path}: {min(missing)!r} is missing. The archive is cut short; get it again.", "打包文件不完整：请重新获取。")
            )


def _plain(entry: tarfile.TarInfo) -> bool:
    """Whether an entry is a file with all its bytes in the archive: no link, no device, and none with holes, which could fill a disk."""
    return entry.isreg() and not entry.issparse()


def _inside(name: str) -> bool:
    """Whether a name is a plain one below its folder, and not that of the list itself."""
    parts = PurePosixPath(name).parts
    outside = name.startswith("/") or "\\" in name or any(part in ("..", ".") or ":" in part for part in parts)
    return bool(parts) and not outside and name != MANIFEST


def _opened(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(entry)
    assert file is not None, "only regular files are opened"
    return file


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    return entry


def _sha256(source: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """The digest of a file, read in pieces, which `copy` gets too; closes the source."""
    found = hashlib.sha256()
    with source:
        while piece := source.read(READ_BYTES):
            found.update(piece)
            if copy is not None:
                copy.write(piece)
    return found.hexdigest()


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "imprint" / "bundles"
