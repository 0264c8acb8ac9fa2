"""The name of a model of the hub, `owner/name` or `owner/name@revision`, told apart from the path of a folder."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError

DEFAULT_REVISION: Final = "main"
MAX_REPOSITORY: Final = 96
"""Characters of `owner/name`; the hub allows no more."""
PART: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
NAME: Final = re.compile(rf"({PART}/{PART})(?:@([A-Za-z0-9][\w./-]*))?", re.ASCII)
COMMIT: Final = re.compile("[0-9a-f]{40}")
ADDRESS: Final = re.compile(rf"https?://[^/]+/(?:models/)?({PART}/{PART})(?:[/?#].*)?", re.ASCII)
FILE_SUFFIXES: Final = (
    *(".tar", ".gguf", ".zip", ".gz", ".bin", ".pt", ".pth", ".ckpt", ".safetensors"),
    *(".yaml", ".yml", ".json", ".jsonl", ".txt", ".md", ".py"),
)
"""A name with one of these ends is that of a file that is not there."""


OWN_FOLDERS: Final = frozenset(
    (
        *("base", "bases", "checkpoint", "checkpoints", "ckpt", "data", "evaluations", "model", "models", "out", "output", "outputs"),
        *("recipes", "results", "run", "runs", "scripts", "tmp", "weights"),
    )
)
"""Names that people give to their folders: with one of them in front and no revision, a path is mistyped and no owner is meant."""


@dataclass(frozen=True)
class HubName:
    """A model of the hub."""

    repository: str
    """`owner/name`."""
    revision: str = DEFAULT_REVISION
    """A branch, a tag, or the 40 hexadecimal digits of a commit."""

    @property
    def commit(self) -> str | None:
        """The revision if it is a commit, which never changes; None for a branch or a tag."""
        return self.revision if COMMIT.fullmatch(self.revision) else None

    def at(self, commit: str) -> "HubName":
        """The same model at a commit."""
        return replace(self, revision=commit)

    def __str__(self) -> str:
        """As a user writes it."""
        return self.repository if self.revision == DEFAULT_REVISION else f"{self.repository}@{self.revision}"


def hub_name(path: str | Path) -> HubName | None:
    """The model of the hub that a text names; None for the path of a folder, and for every `Path`.

    A folder or file that exists wins, and so does what can only be a path: one that begins with `/`, `./`, `../` or `~`, that has more or
    fewer parts than two, or that ends like a file; and without a revision one that begins like a folder of one's own, `models/` or `runs/`,
    unless that exists. Raises UserError for the address of a page, and where both meanings are likely: a
    folder of the owner's name exists, without such a folder in it. A revision tells that the hub is meant.
    """
    if not isinstance(path, str):
        return None
    if address := ADDRESS.fullmatch(path):
        raise UserError(
            Bilingual(
                f"{path}: is the address of a page. Give the model's name: {address[1]}. A mirror is set by the variable HF_ENDPOINT.",
                f"{path}：这是网页地址：请写模型名 {address[1]}；镜像站用环境变量 HF_ENDPOINT 设置。",
            )
        )
    name = parse_name(path)
    if name is None or os.path.lexists(path):
        return None
    owner = name.repository.partition("/")[0]
    if "@" not in path and Path(owner).is_dir():
        raise UserError(
            Bilingual(
                f"{path}: is in no folder {owner}/ here, which exists, so a mistyped path and a model of the hub are both likely. For a "
                f"folder, give its right path (found: {_listing(Path(owner))}); for {name.repository} of the hub, write "
                f"{path}@{DEFAULT_REVISION}.",
                f"当前目录下有 {owner}/，其中却没有这个目录：若指本地目录，请改正路径；若指模型站上的 {name.repository}，请写 "
                f"{path}@{DEFAULT_REVISION}。",
            )
        )
    return None if "@" not in path and owner.lower() in OWN_FOLDERS else name


def parse_name(text: str) -> HubName | None:
    """The model that a text names if it has the form of a hub's name, whatever folders there are; None for anything else."""
    found = NAME.fullmatch(text)
    if found is None or len(found[1]) > MAX_REPOSITORY or text.lower().endswith(FILE_SUFFIXES):
        return None
    revision = found[2] or DEFAULT_REVISION
    if any(double in text for double in ("..", "--", "//")) or revision.endswith(("/", ".lock")):
        return None
    return HubName(found[1], revision)


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return (", ".join(names[:6]) or "no folder") + (f" and {len(names) - 6} more" if len(names) > 6 else "")
