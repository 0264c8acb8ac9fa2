"""Where `imprint data check --fix` writes; it is checked before PyTorch is imported, which takes seconds."""

from collections.abc import Sequence
from pathlib import Path

from imprint.files.disk_errors import refuse_unwritable
from imprint.files.links import follow_link
from imprint.messages import Bilingual, UserError


def check_destination(files: Sequence[str], dev: str | None, fix: Path | None) -> Path | None:
    """The file that `--fix` writes, a link followed; None if there is none.

    Raises UserError if it is one of those that are read, if its name is not that of JSON lines, and if the held-out file is checked too.
    """
    if dev is not None and dev in files:
        raise UserError(
            Bilingual(
                f"--dev {dev}: is one of the files that are checked against it. Give another file, or leave it out.",
                f"--dev {dev}：指定的文件也在被检查的文件之中：请换一个文件，或去掉 --dev。",
            )
        )
    if fix is None:
        return None
    fix = follow_link(fix)
    if fix.suffix.lower() != ".jsonl":
        raise UserError(
            Bilingual(
                f"--fix {fix}: JSON lines are written, so the name must end in .jsonl. `imprint data convert` makes other formats.",
                f"--fix {fix}：写出 JSON Lines，文件名须以 .jsonl 结尾；其他格式请用 imprint data convert。",
            )
        )
    inputs = [Path(file.rpartition("#")[0] or file) for file in files] + [Path(file) for file in [*files, *([dev] if dev else [])]]
    if any(fix.exists() and file.exists() and fix.samefile(file) for file in inputs):
        raise UserError(
            Bilingual(
                f"--fix {fix}: is one of the files that are read, and would be overwritten. Give another name.",
                f"--fix {fix}：指定的文件正是要读取的文件，会被覆盖：请换一个名字。",
            )
        )
    refuse_unwritable(fix.parent)
    return fix
