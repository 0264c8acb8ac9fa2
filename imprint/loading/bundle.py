"""A bundle: one archive to share, with the tuned weights, recipe, report, checksums, and the name and licence of the base.

A plain tar that any tool can read: `bundle.json` first, then the files that it lists with their SHA-256. Unpacking one runs no code, writes
only into a folder of its own, and writes no more bytes than the archive has. Refused are names outside the folder, links, sparse files,
files that are not listed, and files whose checksum differs.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from imprint.files.atomic import atomic_folder
from imprint.files.disk_errors import name_error, translate_disk_errors
from imprint.files.reading import read_json_object
from imprint.files.scratch import remove_scratch, scratch_folder
from imprint.messages import Bilingual, UserError

FORMAT: Final = 1
MANIFEST: Final = "bundle.json"
SUFFIX: Final = ".tar"
MAX_MANIFEST_BYTES: Final = 2**20
MAX_HEADER_BYTES: Final = 2**14
"""All headers of an entry hold a name; more would be read into memory, and searched, by tarfile."""
READ_BYTES: Final = 2**20
MAX_FILES: Final = 2000
"""The most files of a bundle; a model of 400 GB has 200."""
DEVICE: Final = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows."""
MAX_LEVELS: Final = 16
"""Most folders in the name of a file; a run has three."""
MAX_PART_BYTES: Final = 255
"""Longest name of a file or folder, of most disks."""
DIGEST_DIGITS: Final = 32
"""Of a bundle's SHA-256 in the name of its folder in the cache: so many that nobody makes a second bundle for the same folder."""
MAX_NAME_CHARACTERS: Final = 40
"""Of a bundle's name there."""
MAX_FIELD_CHARACTERS: Final = 200
"""Characters of each field of a manifest that are shown."""
DAMAGED: Final = (tarfile.TarError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What tarfile and json raise for a file that is no bundle."""


@dataclass(frozen=True)
class BundleManifest:
    """The content of a bundle's `bundle.json`, without the checksums."""

    name: str
    """Name of the run."""
    method: str
    """Tuning method: prefix, lora or full."""
    base: str
    """Path of the base in the recipe."""
    licence: str
    """The base's licence, as `licence.read_licence` finds it."""


def is_bundle(path: Path) -> bool:
    """Whether a file begins like a bundle; the rest may be damaged."""
    try:
        with _open_archive(path) as archive:
            first = archive.next()
    except DAMAGED:
        return False
    return first is not None and first.name == MANIFEST


def write_bundle(out: Path, folder: Path, names: Sequence[str], manifest: BundleManifest) -> None:
    """Write these files of a folder into the archive `out`, without times and owners, so that equal files give an equal archive."""
    checksums = {name: _sha256((folder / name).open("rb")) for name in names}
    content = json.dumps({"format": FORMAT, **asdict(manifest), "sha256": checksums}, ensure_ascii=False, indent=2).encode()
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_entry(MANIFEST, len(content)), io.BytesIO(content))
        for name in names:
            with (folder / name).open("rb") as file:
                archive.addfile(_entry(name, os.fstat(file.fileno()).st_size), file)


def unpack_cached(path: Path) -> Path:
    """The folder in the user's cache into which a bundle is unpacked, once; any other path is returned unchanged.

    Raises UserError for an archive that is not a bundle, is damaged, or holds anything that a bundle never holds.
    """
    try:
        is_archive = path.is_file() and path.suffix == SUFFIX
    except OSError as error:
        raise (name_error(error) or error) from error
    if not is_archive:
        return path
    try:
        digest = _sha256(path.open("rb"))
    except OSError as error:
        raise UserError(
            Bilingual(
                f"{path}: cannot be read: {error.strerror}. Get it again, or check its permissions.",
                f"{path}：无法读取：请重新获取，或检查读取权限。",
            )
        ) from error
    folder = _cache() / f"{_plain_name(path.stem)}-{digest[:DIGEST_DIGITS]}"
    if folder.is_dir():
        remove_scratch(folder.parent, prefix=".")
    else:
        with translate_disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(folder.parent, prefix=".") as temporary:  # of its own, since two processes may unpack at once
                extract_bundle(path, temporary / folder.name)
                _rename_unless_exists(temporary / folder.name, folder)
    return folder


def _plain_name(stem: str) -> str:
    """The name of a bundle as a part of a folder's: short, and not hidden, since what is hidden in the cache is removed."""
    return stem[:MAX_NAME_CHARACTERS].lstrip(".") or "bundle"


def _rename_unless_exists(source: Path, target: Path) -> None:
    """Rename a folder, unless another process has created the target meanwhile."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def extract_bundle(path: Path, folder: Path) -> None:
    """Write the files of a bundle into `folder`, which appears complete or not at all.

    Raises UserError for a file that is not a bundle, is damaged, or holds anything that a bundle never holds.
    """
    try:
        with _open_archive(path) as archive:
            _extract(archive, path, folder)
    except DAMAGED as error:
        raise UserError(
            Bilingual(
                f"{path}: is not a bundle, or is damaged ({error}). Get it again from where it was made.",
                f"{path}：不是打包文件或已损坏：请重新获取。",
            )
        ) from error


def read_manifest(folder: Path) -> BundleManifest | None:
    """The manifest of the bundle that was unpacked into this folder; None for any other folder.

    It is untrusted: terminal control characters are removed.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise UserError(
            Bilingual(
                f"{file}: is larger than that of any bundle. Delete it, or get the bundle again.",
                f"{file}：该文件过大：请删除，或重新获取。",
            )
        )
    content = read_json_object(file)
    fields = {name: str(content.get(name, "")) for name in BundleManifest.__dataclass_fields__}
    return BundleManifest(**{name: "".join(filter(str.isprintable, text[:MAX_FIELD_CHARACTERS])) for name, text in fields.items()})


class _ArchiveFile(io.FileIO):
    """An archive from which tarfile cannot read headers of any size into memory."""

    left: int = MAX_HEADER_BYTES
    """Bytes that may still be read, of the headers of an entry or of its content."""

    def read(self, size: int | None = -1, /) -> bytes:
        """So many bytes, at most those left."""
        if size is None or not 0 <= size <= self.left:
            raise tarfile.ReadError(f"headers of more than {MAX_HEADER_BYTES:,} bytes")
        self.left -= size
        return super().read(size)


@contextmanager
def _open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    with _ArchiveFile(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        _refuse_shared_headers(archive)
        yield archive


def _extract(archive: tarfile.TarFile, path: Path, folder: Path) -> None:
    first = archive.next()
    if first is None or first.name != MANIFEST or not _plain(first) or first.size > MAX_MANIFEST_BYTES:
        raise UserError(
            Bilingual(
                f"{path}: does not begin with {MANIFEST}, so it is not a bundle. Make one with `imprint export RUN --to bundle`.",
                f"{path}：不是打包文件：请用 imprint export RUN --to bundle 生成。",
            )
        )
    content = _open_entry(archive, first).read()
    manifest = json.loads(content)
    if manifest.get("format") != FORMAT:
        raise UserError(
            Bilingual(
                f'{path}: "format" is {manifest.get("format")!r}, this version reads {FORMAT}. Use the version of Imprint that wrote it.',
                f"{path}：打包格式不同，本版本只读 {FORMAT}：请使用写出它的 Imprint 版本。",
            )
        )
    checksums = _checksums(manifest, path)
    with atomic_folder(folder) as temporary:
        (temporary / MANIFEST).write_bytes(content)
        missing, folded = set(checksums), {_folded(MANIFEST)}
        while (entry := _next_entry(archive)) is not None:
            if entry.name not in missing or not _plain(entry) or not _inside(entry.name) or _folded(entry.name) in folded:
                raise UserError(
                    Bilingual(
                        f"{path}: holds {entry.name!r}, which no bundle holds. Nothing was unpacked; do not trust its origin.",
                        f"{path}：含有打包文件不应有的内容，未解包任何文件：请勿信任其来源。",
                    )
                )
            missing.discard(entry.name)
            folded.add(_folded(entry.name))
            target = temporary / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                checksum = _sha256(_open_entry(archive, entry), file)
            if checksum != checksums[entry.name]:
                raise UserError(
                    Bilingual(
                        f"{path}: {entry.name!r} is not what was packed. The archive is damaged; get it again.",
                        f"{path}：打包文件已损坏：请重新获取。",
                    )
                )
        if missing:
            raise UserError(
                Bilingual(
                    f"{path}: {min(missing)!r} is missing. The archive is cut short; get it again.", f"{path}：打包文件不完整：请重新获取。"
                )
            )


def _checksums(manifest: Mapping[str, Any], path: Path) -> Mapping[str, str]:
    """The files that a description lists, with the SHA-256 of each."""
    checksums: Mapping[str, str] = dict(manifest["sha256"])
    if len(checksums) > MAX_FILES:
        raise UserError(
            Bilingual(
                f"{path}: lists {len(checksums):,} files, more than {MAX_FILES:,}, as no bundle does. Nothing was unpacked.",
                f"{path}：列出了 {len(checksums):,} 个文件，超过 {MAX_FILES:,} 个，打包文件不会这么多，未解包任何文件。",
            )
        )
    return checksums


def _plain(entry: tarfile.TarInfo) -> bool:
    """Whether an entry is a regular file with all its bytes in the archive: no link, no device, not sparse (it could fill a disk)."""
    return entry.isreg() and not entry.issparse()


def _inside(name: str) -> bool:
    """Whether a name is a plain relative path inside the folder, on every system that may unpack it.

    Refused is what a system takes for something else: a drive, a device, a dot or a space at the end, and characters that look like
    separators or dots, or are not seen.
    """
    parts = name.split("/")
    if len(parts) > MAX_LEVELS or any(len(part.encode(errors="replace")) > MAX_PART_BYTES for part in parts):
        return False
    same_elsewhere = unicodedata.normalize("NFKC", name).split("/") == [unicodedata.normalize("NFKC", part) for part in parts]
    return same_elsewhere and not any(_misleads(part) or _misleads(unicodedata.normalize("NFKC", part)) for part in parts)


def _misleads(part: str) -> bool:
    return not part or part[-1] in ". " or ":" in part or "\\" in part or not part.isprintable() or bool(DEVICE.fullmatch(part))


def _folded(name: str) -> str:
    """The name by which a disk may find a file that ignores case, or how a character is composed."""
    return unicodedata.normalize("NFKC", name).casefold()


def _open_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(entry)
    assert file is not None, "only regular files are opened"
    assert isinstance(archive.fileobj, _ArchiveFile)
    archive.fileobj.left = entry.size
    return file


def _next_entry(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    assert isinstance(archive.fileobj, _ArchiveFile)
    archive.fileobj.left = MAX_HEADER_BYTES
    entry = archive.next()
    _refuse_shared_headers(archive)
    if entry is not None:
        entry.pax_headers = {}  # they have been read, and tarfile keeps every entry
    return entry


def _refuse_shared_headers(archive: tarfile.TarFile) -> None:
    """Raise tarfile.ReadError for headers that hold for all entries: tarfile copies them for each, and no bundle has them."""
    if archive.pax_headers:
        raise tarfile.ReadError("headers that hold for all entries")


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    return entry


def _sha256(source: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """The SHA-256 of a file, which is also written to `copy`; closes the source."""
    digest = hashlib.sha256()
    with source:
        while chunk := source.read(READ_BYTES):
            digest.update(chunk)
            if copy is not None:
                copy.write(chunk)
    return digest.hexdigest()


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "imprint" / "bundles"
