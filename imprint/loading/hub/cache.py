"""The cache of Hugging Face's programs, in which models of the hub are kept, so that each is on the disk once.

Its layout is documented at https://huggingface.co/docs/huggingface_hub/guides/manage-cache: `models--OWNER--NAME` has `blobs/`, files named
by their hash, `snapshots/COMMIT/`, links to them under their own names, and `refs/`, which say the commit of a branch. Imprint adds
`imprint/COMMIT.json`: the files that it needs of this commit, written when all of them are there.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.files.atomic import write_json, write_text
from imprint.files.disk_errors import translate_disk_errors
from imprint.files.typed_json import read_typed
from imprint.loading.hub.files import CONFIG, WEIGHT_PAIRS, HubFile
from imprint.loading.hub.name import COMMIT, HubName
from imprint.messages import Bilingual, UserError

RESERVE_BYTES: Final = 64 * 2**20
"""What is left free on the disk: links, the log of a run, other programs."""
GIB: Final = 2**30
FETCH_AGAIN: Final = Bilingual("Delete the file; the model is then checked again.", "请删除该文件，模型会重新检查。")


@dataclass(frozen=True)
class HubCache:
    """The part of the cache that belongs to one repository."""

    root: Path
    """The cache of all repositories."""
    repository: str
    """`owner/name`."""

    @property
    def folder(self) -> Path:
        """Everything of the repository."""
        return self.root / f"models--{self.repository.replace('/', '--')}"

    @property
    def lock(self) -> Path:
        """The file by which one process at a time downloads it."""
        return self.root / ".locks" / self.folder.name / "imprint.lock"

    def snapshot(self, commit: str) -> Path:
        """The model folder of a commit."""
        return self.folder / "snapshots" / commit

    def blob(self, file: HubFile) -> Path:
        """Where the content of a file is kept."""
        return self.folder / "blobs" / file.digest

    def partial(self, file: HubFile) -> Path:
        """Where the beginning of a file is kept while it is fetched."""
        return self.folder / "blobs" / f"{file.digest}.incomplete"

    def lacks(self, commit: str, file: HubFile) -> bool:
        """Whether a file has to be fetched: neither the snapshot nor the blobs have it in its full size."""
        return not any(_has_size(path, file.size) for path in (self.snapshot(commit) / file.name, self.blob(file)))

    def link(self, commit: str, file: HubFile) -> None:
        """Show a blob in the snapshot under its name; where a disk has no links, it is moved there."""
        shown, blob = self.snapshot(commit) / file.name, self.blob(file)
        if _has_size(shown, file.size):
            return
        with translate_disk_errors(shown):
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.unlink(missing_ok=True)
            try:
                shown.symlink_to(os.path.relpath(blob, shown.parent))
            except OSError:
                blob.replace(shown)

    def record_complete(self, name: HubName, commit: str, files: Iterable[HubFile]) -> None:
        """Record that these files of a commit are all that is needed and are there, and which commit the revision is."""
        write_json(self._record(commit), {file.name: file.size for file in files})
        self.write_ref(name, commit)

    def write_ref(self, name: HubName, commit: str) -> None:
        """Record which commit a branch or a tag is."""
        if name.commit is None:
            write_text(self.folder / "refs" / name.revision, commit)

    def commit_of(self, name: HubName) -> str | None:
        """The commit that the revision was when it was last fetched, by whatever program; None if it never was."""
        if name.commit is not None:
            return name.commit
        try:
            found = (self.folder / "refs" / name.revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        return found if COMMIT.fullmatch(found) else None

    def is_complete(self, commit: str) -> bool:
        """Whether all that is needed of a commit is there, by the record of what that is."""
        record = self._record(commit)
        if not record.is_file():
            return False
        sizes = read_typed(record, dict[str, int], FETCH_AGAIN)
        return all(_has_size(self.snapshot(commit) / name, size) for name, size in sizes.items())

    def is_usable(self, commit: str) -> bool:
        """Whether another program has left a config.json and whole weights of a commit; other files may lack."""
        from imprint.models.weight_files import weight_files

        folder = self.snapshot(commit)
        if not (folder / CONFIG).is_file() or not any((folder / name).is_file() for pair in WEIGHT_PAIRS for name in pair):
            return False
        try:
            return bool(weight_files(folder))
        except UserError:
            return False

    def _record(self, commit: str) -> Path:
        return self.folder / "imprint" / f"{commit}.json"


def check_space(cache: HubCache, files: Sequence[HubFile]) -> None:
    """Raise UserError unless the disk has room for what is still to be fetched of these files."""
    needed = sum(max(0, file.size - size_of(cache.partial(file))) for file in files)
    with translate_disk_errors(cache.folder):
        cache.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache.folder).free
    if needed and needed + RESERVE_BYTES > free:
        raise UserError(
            Bilingual(
                f"{cache.repository}: {needed / GIB:.2f} GiB are to be downloaded into {cache.root}, where {free / GIB:.2f} GiB are free. "
                "Free some space, or choose a folder on another disk with the variable HF_HOME.",
                f"{cache.repository}："
                f"还需下载 {needed / GIB:.2f} GiB，而 {cache.root} 所在磁盘只剩 {free / GIB:.2f} GiB：请清理空间，或用环境变量 HF_HOME "
                "换到另一块磁盘。",
            )
        )


def size_of(path: Path) -> int:
    """The bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
