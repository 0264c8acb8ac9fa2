"""Which files of a model folder hold its weights: one file, the shards of an index, or a complete set of shards without one."""

import re
from pathlib import Path

from imprint.files.reading import read_json
from imprint.messages import Bilingual, UserError
from imprint.models.families import listing

MAX_NAME_BYTES = 255
"""Longest name of a file on common disks."""
STEMS = (("model", "safetensors"), ("pytorch_model", "bin"))
"""Beginnings and ends of the names, in the order in which they are looked for, as transformers has it."""
FOUND_INSTEAD: tuple[tuple[str, str, str], ...] = (
    ("*.gguf", "It holds a GGUF: turn it into a folder with `imprint import`.", "这里是 GGUF：请用 imprint import 转换。"),
    (
        "zero_to_fp32.py",
        "It is a checkpoint of DeepSpeed: run the zero_to_fp32.py in it, which writes the weights.",
        "这是 DeepSpeed 检查点：请运行其中的 zero_to_fp32.py 生成权重。",
    ),
    (
        "adapter_model.*",
        "It holds an adapter: give it as the adapter (adapter=, tune.adapter), and the base's own folder as the model.",
        "这里是适配器：请作为 adapter 给出，模型则给出底座目录。",
    ),
    (
        "*.distcp",
        "It is a distributed checkpoint of PyTorch: convert it with torch.distributed.checkpoint.format_utils.",
        "这是 PyTorch 分布式检查点：请用 torch.distributed.checkpoint.format_utils 转换。",
    ),
    (
        "consolidated*",
        "It has the layout of the model's publisher: download the folder in the layout of transformers.",
        "这是发布者自己的格式：请下载 transformers 格式的目录。",
    ),
)
"""What a folder without weights may hold in their place -> what to do with it."""


def weight_files(folder: Path) -> list[Path]:
    """The files with weights; safetensors before `.bin`, one file before shards. Raises UserError where there are none."""
    problem: UserError | None = None
    for stem, ending in STEMS:
        single, index = folder / f"{stem}.{ending}", folder / f"{stem}.{ending}.index.json"
        if single.is_file():  # before an index, as transformers has it
            return [single]
        names = indexed_shards(index) if index.is_file() else _numbered_shards(folder, stem, ending)
        missing = [name for name in names if not (folder / name).is_file()]
        if names and not missing:
            return [folder / name for name in names]
        if names:
            problem = problem or _missing_shards_error(folder, names, missing)
            if len(missing) < len(names):  # a download that broke off
                raise problem
    raise problem or _no_weights_error(folder)


def indexed_shards(index: Path) -> list[str]:
    """The files that an index of shards names. Raises UserError for an index that is none, and for names outside its folder."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or not name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES]
        if not names:
            raise ValueError("it names no file")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UserError(
            Bilingual(
                f'{index}: must be a JSON object with a "weight_map" of tensor names to files. Download the file again.',
                f'{index}：必须是 JSON 对象，其中 "weight_map" 由张量名指向文件：请重新下载该文件。',
            )
        ) from error
    if outside:
        raise UserError(
            Bilingual(
                f"{index}: names a file outside its folder, {outside[0][:80]!r}. Do not use this folder unless you trust its origin.",
                f"{index}：索引指向目录之外的文件 {outside[0][:80]!r}：除非信任其来源，否则请勿使用该目录。",
            )
        )
    return names


def shard_names(stem: str, ending: str, count: int) -> list[str]:
    """The official names of `count` weight files."""
    return [f"{stem}.{ending}"] if count == 1 else [f"{stem}-{i + 1:05d}-of-{count:05d}.{ending}" for i in range(count)]


def _numbered_shards(folder: Path, stem: str, ending: str) -> list[str]:
    """The names of a set of shards without an index, by the number that each of their names ends with; empty for none, or several sets."""
    pattern = re.compile(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{ending}")
    counts = {int(match[1]) for file in folder.iterdir() if (match := pattern.fullmatch(file.name))}
    count = counts.pop() if len(counts) == 1 else 0
    return [f"{stem}-{number:05d}-of-{count:05d}.{ending}" for number in range(1, count + 1)]


def _missing_shards_error(folder: Path, names: list[str], missing: list[str]) -> UserError:
    return UserError(
        Bilingual(
            f"{folder}: {len(missing)} of {len(names)} shards are missing, the first is {missing[0]}. Download them into this folder.",
            f"{folder}：{len(names)} 个分片中缺少 {len(missing)} 个，第一个是 {missing[0]}：请下载到该目录。",
        )
    )


def _no_weights_error(folder: Path) -> UserError:
    english, chinese = next(
        ((english, chinese) for pattern, english, chinese in FOUND_INSTEAD if next(folder.glob(pattern), None)),
        ("Download what is missing.", "请下载缺少的文件。"),
    )
    return UserError(
        Bilingual(
            f"{folder}: no weights; found {listing(folder)}. Allowed: model.safetensors or pytorch_model.bin, or shards together with "
            f"their index (model.safetensors.index.json, pytorch_model.bin.index.json). {english}",
            f"{folder}：没有权重：需要 model.safetensors 或 pytorch_model.bin，或分片及其索引。{chinese}",
        )
    )
