"""Checks the output folder: it must be new, empty, or written by the same command before."""

from collections.abc import Callable, Iterable
from pathlib import Path

from imprint.files.disk_errors import refuse_unwritable
from imprint.files.links import follow_link, resolved
from imprint.messages import Bilingual, UserError


def with_file_name(out: Path) -> Path:
    """The path that is written: of a link, where it leads; with a file name, which `.` has not and the temporary folder needs."""
    return follow_link(out) if out.name not in ("", "..") else resolved(out)


def refuse_destination(out: Path, inputs: Iterable[Path], *, written_before: Callable[[Path], bool], otherwise: str) -> None:
    """Raise UserError if writing the folder `out` would overwrite its inputs or foreign files.

    `written_before` says whether a folder was written by the same command; `otherwise` completes the message for one that was not.
    """
    for source in inputs:
        if resolved(source).is_relative_to(resolved(out)):
            raise UserError(
                Bilingual(
                    f"{out}: holds {source}, which is read. Give a folder of its own to write to.",
                    f"{out}：该目录含有要读取的内容：请给出单独的输出目录。",
                )
            )
    if out.is_file():
        raise UserError(
            Bilingual(f"{out}: is a file. Give the name of a folder to write to.", f"{out}：这是一个文件：请给出要写入的目录名。")
        )
    refuse_unwritable(out.parent)
    if out.is_dir() and any(out.iterdir()) and not written_before(out):
        raise UserError(
            Bilingual(
                f"{out}: is there already and {otherwise}, so it is not replaced. Give a new folder to write to.",
                f"{out}：目录已存在，不会覆盖：请给出新的目录。",
            )
        )
