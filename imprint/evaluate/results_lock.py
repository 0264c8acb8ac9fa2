"""Holds a folder of results, so that two commands with different settings do not mix what they write."""

from contextlib import AbstractContextManager
from pathlib import Path

from imprint.files.scratch import locked_folder
from imprint.messages import Bilingual


def results_lock(output: Path) -> AbstractContextManager[None]:
    """Hold a folder from the first answer or measurement to the last file; raises UserError while another process writes into it."""
    busy = Bilingual(
        f"{output}: another process writes results into this folder, perhaps with other settings. Wait for it, stop it, or choose another "
        "folder (output=...).",
        "已有进程正在向该目录写入结果，设置可能不同：请等待或停止它，或换一个目录（output=...）。",
    )
    return locked_folder(output, busy)
