"""The special tokens and the chat template of a model folder, from the files beside its tokenizer.json."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.files.reading import read_json_object, read_model_file
from imprint.messages import Bilingual, UserError
from imprint.terminal import say_once
from imprint.tokenizers.tokenizer import well_formed

TOKENIZER_CONFIG: Final = "tokenizer_config.json"
GENERATION_CONFIG: Final = "generation_config.json"
"""File that may name further EOS ids."""
SPECIAL_TOKENS_MAP: Final = "special_tokens_map.json"
"""File of older folders that names special tokens, which count as for transformers: before those of a tokenizer_config.json that has no
"added_tokens_decoder", and after those of any other."""
ADDED_TOKENS: Final = "added_tokens.json"
"""File of older folders with the ids of tokens that were added to a vocabulary."""
UNWRITTEN: Final = ("pad_token", "unk_token", "mask_token", "cls_token", "sep_token")
"""Tokens that stand in no text of a language model."""
CHAT_TEMPLATE: Final = "chat_template.jinja"
OLD_CHAT_TEMPLATE: Final = "chat_template.json"
NAMED_CHAT_TEMPLATES: Final = "additional_chat_templates"
"""Folder of templates with names; the default one is `CHAT_TEMPLATE`."""
MAX_ID: Final = 2**31
"""Above every id."""
FLAGS: Final = ("lstrip", "rstrip", "single_word", "normalized")
"""How an added token is found in texts."""
MAX_LEVELS: Final = 16
"""Branches inside each other in the pattern of names."""


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens and chat template of a folder."""

    bos_ids: tuple[int, ...]
    """Ids before every text."""
    eos_ids: tuple[int, ...]
    """Ids that end a text; the first one is learned."""
    chat_template: str | None
    """Jinja template of conversations, if any."""
    names: Mapping[str, str]
    """Names of tokens in the chat template (bos_token, eos_token, ...) -> token."""
    listed: tuple[str, ...] = ()
    """Further special tokens that tokenizer_config.json lists."""
    added: frozenset[str] = frozenset()
    """Every token of texts that is named beside tokenizer.json, special or not."""
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    """Token -> how tokenizer_config.json says that it is found in texts, by the names of `FLAGS`; it counts before tokenizer.json."""
    moment: datetime | None = None
    """What `strftime_now` of the chat template prints; None is now."""


def read_special_tokens(
    folder: Path, config: Mapping[str, object], bos_ids: tuple[int, ...], id_of: Callable[[str], int | None]
) -> SpecialTokens:
    """The special tokens of a folder with the fields `config` of its config.json. `id_of`: the id of a token of its vocabulary.

    Raises UserError for files that cannot be read.
    """
    settings, generation = (
        read_json_object(path) if (path := folder / name).is_file() else {} for name in (TOKENIZER_CONFIG, GENERATION_CONFIG)
    )
    older = read_json_object(path) if (path := folder / SPECIAL_TOKENS_MAP).is_file() else {}
    named = {key: value for key, value in settings.items() if value is not None}
    given = {**older, **named} if "added_tokens_decoder" in settings else {**named, **older}
    names = {key: _token_text(value) for key, value in given.items() if key.endswith("_token")}
    eos_id = id_of(names["eos_token"]) if names.get("eos_token") else None
    eos_ids = [*_as_ids(eos_id), *_as_ids(config.get("eos_token_id")), *_as_ids(generation.get("eos_token_id"))]
    template = _chat_template(folder, settings)
    texts = MappingProxyType({key: value for key, value in names.items() if value})
    added = _added_tokens(given) | _added_ids(folder).keys() | set(texts.values())
    unwritten = {names.get(name, "") for name in UNWRITTEN}
    listed = _listed_tokens(given)
    if given.get("split_special_tokens") is True:
        _tell_of_split(folder)
    added, flags = added | {*listed}, _flags(given.get("added_tokens_decoder"))
    return SpecialTokens(bos_ids, tuple(dict.fromkeys(eos_ids)), template, texts, listed, frozenset(added) - unwritten, flags)


def _added_tokens(settings: Mapping[str, object]) -> set[str]:
    """The tokens that a tokenizer_config.json adds, special or not."""
    return {text for value in _values(settings.get("added_tokens_decoder")) if (text := _token_text(value))}


def _flags(added: object) -> dict[str, dict[str, bool]]:
    """What the added tokens of a tokenizer_config.json say of how they are found."""
    tokens = [value for value in _values(added) if isinstance(value, dict) and _token_text(value)]
    return {_token_text(value): {flag: value[flag] for flag in FLAGS if isinstance(value.get(flag), bool)} for value in tokens}


def _added_ids(folder: Path) -> dict[str, object]:
    """Token -> id, as the file of older folders has them."""
    return read_json_object(path) if (path := folder / ADDED_TOKENS).is_file() else {}


def _listed_tokens(settings: Mapping[str, object]) -> tuple[str, ...]:
    """The special tokens that a tokenizer_config.json lists without a name, and those that it marks as special."""
    listed = [value for key in ("additional_special_tokens", "extra_special_tokens") for value in _values(settings.get(key))]
    marked = [value for value in _values(settings.get("added_tokens_decoder")) if isinstance(value, dict) and value.get("special") is True]
    return tuple(text for value in (*listed, *marked) if (text := _token_text(value)))


def tell_of_missing(file: Path, names: Sequence[str]) -> None:
    """Print which tokens the files beside a tokenizer.json name that it lacks: transformers gives them ids of their own."""
    if names:
        listed = ", ".join(f"{name:.40}" for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
        notice = Bilingual(
            f"{file} lacks tokens that are named beside it: {listed}. They are read as ordinary text, where transformers gives each an id. "
            f"If the model has learned them: AutoTokenizer.from_pretrained('{file.parent}').save_pretrained('{file.parent}')",
            f"{file}：缺少旁边文件中列出的词元（{listed}），它们按普通文本读取；若模型学过它们，请用 transformers 重新保存分词器。",
        )
        say_once(well_formed(notice.line))


def _tell_of_split(folder: Path) -> None:
    notice = Bilingual(
        f'{folder / TOKENIZER_CONFIG}: no effect has "split_special_tokens": the special tokens of a chat template are read as ids, and '
        "those that somebody typed never. Take it out.",
        "split_special_tokens 不起作用：对话模板中的特殊词元总按 id 读取，用户输入的从不；请去掉。",
    )
    say_once(well_formed(notice.line))


def _values(value: object) -> list[object]:
    """The values of a list or an object; none of anything else."""
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []


def _token_text(value: object) -> str:
    """The text of a token, which may be an object; empty if there is none."""
    text = value.get("content") if isinstance(value, dict) else value
    return well_formed(text) if isinstance(text, str) else ""


def _as_ids(value: object) -> list[int]:
    """A list of ids from a config's id, list or null."""
    values = value if isinstance(value, list) else [value]
    return [token for token in values if isinstance(token, int) and not isinstance(token, bool) and 0 <= token < MAX_ID]


def read_chat_template(folder: Path) -> str | None:
    """The chat template of a folder: a file of its own, else that of tokenizer_config.json; None if there is none."""
    return _chat_template(folder, read_json_object(path) if (path := folder / TOKENIZER_CONFIG).is_file() else {})


def _chat_template(folder: Path, settings: Mapping[str, object]) -> str | None:
    for name in (CHAT_TEMPLATE, OLD_CHAT_TEMPLATE):
        if (file := folder / name).is_file():
            if name == OLD_CHAT_TEMPLATE:
                return _default_template(file, read_json_object(file).get("chat_template"))
            return _decoded(file)
    template = settings.get("chat_template")
    others = {file.stem: _decoded(file) for file in sorted((folder / NAMED_CHAT_TEMPLATES).glob("*.jinja"))}
    return _default_template(folder / TOKENIZER_CONFIG, template if template is not None or not others else others)


def _decoded(file: Path) -> str:
    """The text of a chat template. Raises UserError for another encoding."""
    try:
        return read_model_file(file, "a chat template").decode()
    except UnicodeDecodeError as error:
        raise UserError(
            Bilingual(
                f"{file} is no UTF-8 text ({error.reason}). Download the file again.", f"{file}：对话模板不是 UTF-8 文本：请重新下载。"
            )
        ) from error


def _default_template(file: Path, template: object) -> str | None:
    """The chat template in a field; of several named ones the default one, else the first for plain conversations, which is said.

    Raises UserError for a field that holds no template.
    """
    named = template
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    if named is None or isinstance(named, str):
        return named
    texts = {str(name): text for name, text in named.items() if isinstance(text, str)} if isinstance(named, dict) else {}
    if not texts:
        raise UserError(
            Bilingual(
                f'{file}: "chat_template" must be a text, or a list of objects with "name" and "template", got {type(template).__name__}. '
                "Download the file again.",
                f"{file}：chat_template 须为文本，或带名称的模板列表：请重新下载。",
            )
        )
    if "default" in texts:
        return texts["default"]
    name = next((name for name in texts if name not in ("tool_use", "rag")), next(iter(texts)))
    notice = Bilingual(
        f"{file}: none of its chat templates ({', '.join(texts)}) is named default; {name} is taken",
        f"没有名为 default 的对话模板，使用 {name}",
    )
    say_once(str(notice))
    return texts[name]


def pattern_of_names(names: Collection[str]) -> re.Pattern[str]:
    """Matches any of these names, the longest that stands at a place; nothing if there is none.

    One name after another would be tried at each `<` of a text, of thousands in some vocabularies, while all other threads wait.
    """
    return re.compile(f"({_any_of([name for name in {*names} if name], MAX_LEVELS)})" if any(names) else "((?!))")


def _any_of(names: Sequence[str], levels: int) -> str:
    """A regular expression of names that asks for each letter once; after so many branches, for one name after another."""
    first, last = min(names), max(names)
    begin = first[: next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))]
    rests = [name[len(begin) :] for name in names]
    if levels == 0:
        return f"{re.escape(begin)}(?:{'|'.join(map(re.escape, sorted(rests, key=len, reverse=True)))})"
    by_letter: dict[str, list[str]] = {}
    for rest in filter(None, rests):
        by_letter.setdefault(rest[0], []).append(rest)
    if not by_letter:
        return re.escape(begin)
    branches = "|".join(_any_of(group, levels - 1) for group in by_letter.values())
    return f"{re.escape(begin)}(?:{branches}){'?' if '' in rests else ''}"
