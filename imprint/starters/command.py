"""`imprint init`: a commented recipe with sample rows, to be changed into one's own."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.demo.domain_example.books import pages
from imprint.demo.rows import Split, task_rows
from imprint.files.atomic import write_text
from imprint.messages import Bilingual, UserError, closest, did_you_mean
from imprint.starters.shipped import RECIPE, shipped_recipes
from imprint.terminal import say

FOLDER: Final = "FOLDER"
"""Stands in the recipes for the folder that is written to."""
ROWS: Final = 48
"""Sample rows of a generated kind."""
HELD_OUT: Final = 12
PLAIN_PATH: Final = re.compile(r"[\w./-]+")
"""A path that YAML takes for a text without quotes."""


@dataclass(frozen=True)
class Starter:
    """A kind of recipe to start from."""

    what: Bilingual
    """What it teaches, in a line."""
    rows: Callable[[], Mapping[str, str]]
    """The sample rows: file name -> text."""
    guesses: tuple[str, ...]
    """Other names that one may try."""


def _generated(task: str) -> Callable[[], Mapping[str, str]]:
    """Rows of a task of the toy world, to learn from and held out."""
    splits: tuple[tuple[str, Split, int], ...] = (("rows.jsonl", "train", ROWS), ("held-out.jsonl", "dev", HELD_OUT))
    return lambda: {name: _distinct_rows(task, split, count) for name, split, count in splits}


def _distinct_rows(task: str, split: Split, count: int) -> str:
    """JSON lines of the first distinct rows of a task."""
    lines = dict.fromkeys(json.dumps(row, ensure_ascii=False) + "\n" for row in task_rows(task, 0, 4 * count, split))
    return "".join(islice(lines, count))


def _identity_rows() -> Mapping[str, str]:
    folder = files("imprint.demo") / "identity"
    return {name: (folder / source).read_text("utf-8") for name, source in (("rows.jsonl", "train.jsonl"), ("held-out.jsonl",) * 2)}


def _conversations() -> Mapping[str, str]:
    return {"rows.jsonl": (files("imprint.starters") / "chat.jsonl").read_text("utf-8")}


def _books() -> Mapping[str, str]:
    return {"books.txt": "\n\n".join(islice(pages(0), ROWS)) + "\n"}


STARTERS: Final[Mapping[str, Starter]] = MappingProxyType(
    {
        "identity": Starter(
            Bilingual("a new name and author for a model", "给模型新的名字和作者"),
            _identity_rows,
            ("name", "self", "self-cognition", "imprint"),
        ),
        "adgen": Starter(
            Bilingual("ad copy from keywords", "由关键词写广告文案"),
            _generated("ad_copy"),
            ("ad", "ads", "ad-copy", "copy", "demo", "generation"),
        ),
        "classify": Starter(
            Bilingual("which of your labels a text has", "文本分类"),
            _generated("classification"),
            ("classification", "classifier", "labels"),
        ),
        "summary": Starter(Bilingual("a text in one sentence", "摘要"), _generated("summary"), ("summarize", "summarise", "summarization")),
        "translation": Starter(Bilingual("from English to Chinese", "英译中"), _generated("translation"), ("translate", "mt")),
        "chat": Starter(
            Bilingual("conversations, such as customer service", "多轮对话，例如客服"),
            _conversations,
            ("conversation", "dialogue", "dialog", "faq", "qa", "questions", "instruct", "sft", "customer-service"),
        ),
        "domain": Starter(
            Bilingual("the base reads the books of your domain", "继续预训练：通读某一行业的书"),
            _books,
            ("pretrain", "texts", "books", "cpt"),
        ),
    }
)
"""Name -> starter."""


def init_command(name: str | None, folder: Path | None) -> None:
    """Write a starter into a folder and print the next command; without a name, list the names.

    Raises UserError for an unknown name, and where a file would be overwritten.
    """
    if name is None:
        say(*_list())
        return
    chosen = _find(name)
    target = Path(chosen) if folder is None else folder
    _refuse_odd_name(target)
    texts = {RECIPE: recipe_of(chosen, target), **STARTERS[chosen].rows()}
    _refuse_existing(target, list(texts))
    for file, text in texts.items():
        write_text(target / file, text)
        say(f"written / 已写入: {target / file}")
    say(*_next(chosen, target))


def _refuse_odd_name(folder: Path) -> None:
    """Raise UserError for a name of bytes that are no UTF-8, which no recipe can hold."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(
            Bilingual(
                f"{folder}: the name is no UTF-8, so the recipe cannot hold it. Choose another name.",
                f"{folder}：该名字不是 UTF-8，无法写进配方：请换一个名字。",
            )
        ) from None


def recipe_of(name: str, folder: Path) -> str:
    """The text of a starter's recipe, with the paths of a folder."""
    text = (files("imprint.starters") / "recipes" / f"{name}.yaml").read_text("utf-8")
    target = folder.as_posix()
    return re.sub(rf"(?<=: ){FOLDER}(/[\w./-]+)", lambda match: _as_yaml(target + match[1]), text)


def _as_yaml(path: str) -> str:
    """A path as a value of YAML."""
    return path if PLAIN_PATH.fullmatch(path) else json.dumps(path, ensure_ascii=False)


def _find(name: str) -> str:
    """The starter of this name, or of a guess at it."""
    wanted = name.lower().replace("_", "-")
    guesses = {guess: starter for starter, one in STARTERS.items() for guess in (starter, *one.guesses)}
    if wanted in guesses:
        return guesses[wanted]
    meant = did_you_mean([guesses[near] for near in closest(wanted, guesses)])
    names = ", ".join(STARTERS)
    raise UserError(
        Bilingual(
            f'there is no starter "{name}". {meant.english}Give one of {names}.',
            f'没有名为 "{name}" 的模板。{meant.chinese}可用：{names}。',
        )
    )


def _refuse_existing(folder: Path, names: list[str]) -> None:
    """Raise UserError if one of these files exists, or if the folder cannot be one."""
    if folder.exists() and not folder.is_dir():
        raise UserError(Bilingual(f"{folder}: this is a file. Give the name of a folder.", f"{folder}：这是一个文件，请给出目录名。"))
    there = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if there:
        raise UserError(
            Bilingual(
                f"{folder}: holds {', '.join(there)} already, and nothing is overwritten. Give another folder: imprint init NAME FOLDER",
                f"{folder}：{'、'.join(there)} 已存在，不会覆盖。请换一个目录：imprint init NAME FOLDER",
            )
        )


def _list() -> Iterator[str]:
    yield Bilingual("imprint init NAME [FOLDER] writes a commented recipe and sample rows", "生成带注释的配方和示例数据").line + ":"
    for name, starter in STARTERS.items():
        yield f"  {name:<14}{starter.what.line}"
    yield Bilingual("recipes that come with Imprint, for `imprint train NAME`", "自带的配方，可直接 imprint train NAME").line + ":"
    yield f"  {', '.join(shipped_recipes())}"


def _next(name: str, folder: Path) -> Iterator[str]:
    """The commands to run next."""
    recipe, rows = folder / RECIPE, next(iter(STARTERS[name].rows()))
    yield Bilingual("next", "接下来").line + ":"
    for words, purpose in (
        (["imprint", "train", str(recipe)], Bilingual("try it as it is, on the toy base", "先在玩具底座上试跑")),
        (["imprint", "data", "check", str(folder / rows)], Bilingual("after you have put your own rows there", "换成自己的数据后检查")),
    ):
        yield f"  {shlex.join(words)}    {purpose.line}"
