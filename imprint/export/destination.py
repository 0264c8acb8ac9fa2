"""Where something may be written: a new place, an empty folder, or what the same command has written before."""

from collections.abc import Callable, Iterable
from pathlib import Path

from imprint.errors import UserError


def with_own_name(out: Path) -> Path:
    """The place under a name of its own: `.` has none to write beside."""
    return out if out.name not in ("", "..") else out.resolve()


def refuse_destination(out: Path, reads: Iterable[Path], *, again: Callable[[Path], bool], otherwise: str) -> None:
    """Raise UserError where writing the folder `out` would destroy what is read for it, or what somebody else put there.

    `again` tells whether a folder is what the same command wrote before; `otherwise` says what is wrong with one that is not.
    """
    for source in reads:
        if source.resolve().is_relative_to(out.resolve()):
            raise UserError(f"{out}: holds {source}, which is read. Give a folder of its own to write to.")
    if out.is_file():
        raise UserError(f"{out}: is a file. Give the name of a folder to write to.")
    if out.is_dir() and any(out.iterdir()) and not again(out):
        raise UserError(f"{out}: is there already and {otherwise}, so it is not replaced. Give a new folder to write to.")
