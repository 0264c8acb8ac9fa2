"""What a repository of the hub holds, and the files of it that are needed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from imprint.messages import Bilingual, UserError
from imprint.models.auxiliary_files import KNOWN_NAMES

CONFIG: Final = "config.json"
SHA256: Final = re.compile("[0-9a-f]{64}")
GIT_HASH: Final = re.compile("[0-9a-f]{40}")
NAMED_TEMPLATE: Final = re.compile(r"additional_chat_templates/[\w-][\w.-]*\.jinja")
WEIGHT_PAIRS: Final = (("model.safetensors.index.json", "model.safetensors"), ("pytorch_model.bin.index.json", "pytorch_model.bin"))
"""(index of shards, single file) in the order in which weights are looked for: one kind of them is read, and one is fetched."""
MAX_SMALL_BYTES: Final = 2**30
"""Most bytes of a file that is no weights; the largest vocabularies have some tens of megabytes."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    name: str
    """Its path in the repository."""
    size: int
    """Bytes."""
    digest: str
    """The SHA-256 of a large file; of a small one git's hash, the SHA-1 of `blob SIZE`, a zero byte, and the content."""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    commit: str
    """40 hexadecimal digits."""
    files: Mapping[str, HubFile]
    """By name."""


def auxiliary_files(listing: Listing, repository: str) -> list[HubFile]:
    """Everything needed beside the weights, config.json last: configuration, vocabulary, chat templates, licence; no code.

    Raises UserError for a listing with names outside the folder, and for a repository without config.json.
    """
    if outside := [name for name in listing.files if _is_outside(name)]:
        raise UserError(
            Bilingual(
                f"{repository}: lists a file outside of its folder, {outside[0][:80]!r}. Nothing was written. Do not use this model, or "
                "this mirror, unless you trust its origin.",
                f"{repository}："
                f"文件列表中有目录之外的路径 {outside[0][:80]!r}，没有写入任何文件：除非信任其来源，否则请勿使用该模型或镜像站。",
            )
        )
    if CONFIG not in listing.files:
        raise UserError(_not_a_model(listing, repository))
    found = [file for name, file in sorted(listing.files.items()) if _is_auxiliary(name) and file.size <= MAX_SMALL_BYTES]
    return sorted(found, key=lambda file: file.name == CONFIG)


def weight_index(listing: Listing) -> HubFile | None:
    """The index of the shards that are read, if the weights have one: safetensors before `.bin`, one file before shards."""
    for index, single in WEIGHT_PAIRS:
        if single in listing.files:
            return None
        if index in listing.files:
            return listing.files[index]
    return None


def weights(listing: Listing, repository: str, shards: Sequence[str] = ()) -> list[HubFile]:
    """The files with weights: the shards that the index names, or the one file. Raises UserError where the repository lacks them."""
    if shards:
        missing = [name for name in shards if name not in listing.files]
        if missing:
            raise UserError(
                Bilingual(
                    f"{repository}: its index names {len(shards)} shards, of which the repository lacks {len(missing)}; the first is "
                    f"{missing[0]}. Choose another revision ({repository}@REVISION) or another repository.",
                    f"索引列出 {len(shards)} 个分片，仓库中缺少 {len(missing)} 个：请换一个版本（{repository}@版本）或另一个仓库。",
                )
            )
        return [listing.files[name] for name in shards]
    for _index, single in WEIGHT_PAIRS:
        if single in listing.files:
            return [listing.files[single]]
    raise UserError(_not_a_model(listing, repository))


def _is_auxiliary(name: str) -> bool:
    return bool((KNOWN_NAMES.fullmatch(name) and not name.lower().endswith(".py")) or NAMED_TEMPLATE.fullmatch(name))


def _is_outside(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match("[A-Za-z]:", name) is not None


def _not_a_model(listing: Listing, repository: str) -> Bilingual:
    """Why a repository without configuration or weights cannot be loaded, and what it is instead."""
    suffixes = {PurePosixPath(name).suffix for name in listing.files}
    if "adapter_config.json" in listing.files:
        return Bilingual(
            f"{repository}: holds an adapter, not a model. Fetch it with `hf download {repository} --local-dir FOLDER` and give "
            "adapter=FOLDER beside its base.",
            "该仓库是适配器而不是模型：请下载到本地目录，再与底座一起用 adapter=目录 给出。",
        )
    if ".gguf" in suffixes:
        return Bilingual(
            f"{repository}: holds GGUF files. Give the repository they were made from, or fetch one (`hf download {repository} FILE.gguf "
            "--local-dir .`) and run `imprint import FILE.gguf FOLDER`.",
            "该仓库只有 GGUF 文件：请改用其原始仓库，或下载一个后用 imprint import 导入。",
        )
    shown = ", ".join(sorted(listing.files)[:6]) or "nothing"
    return Bilingual(
        f"{repository}: is no model that can be loaded: it needs config.json, and model.safetensors, pytorch_model.bin, or shards of "
        f"either with their index. Found: {shown}. Give another repository or revision ({repository}@REVISION).",
        "该仓库不是可加载的模型：需要 config.json，以及 model.safetensors、pytorch_model.bin 或带索引的分片；请换一个仓库或版本。",
    )
