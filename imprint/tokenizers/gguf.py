"""The tokenizer of a GGUF file, written as tokenizer.json, tokenizer_config.json and chat_template.jinja, from the metadata alone.

Vocabularies are byte-level (`gpt2`), or of SentencePiece's BPE (`llama`, `gemma4`). What a file leaves out is as in llama.cpp
(`llama_vocab::impl::load` in src/llama-vocab.cpp): vocabularies of SentencePiece begin with BOS and put a space before every text. Source
of the metadata: docs/gguf.md of github.com/ggml-org/ggml; of the form: the `tokenizers` library.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from imprint.files.atomic import write_json
from imprint.messages import Bilingual, UserError
from imprint.terminal import say
from imprint.tokenizers.bpe import bpe_model
from imprint.tokenizers.hf import TOKENIZER_JSON, bytes_of_letters
from imprint.tokenizers.special_tokens import CHAT_TEMPLATE, TOKENIZER_CONFIG
from imprint.tokenizers.splitting import DEFAULT, SPLITTINGS, Splitting
from imprint.tokenizers.tokenizer import SPACE

SECTION: Final = "tokenizer.ggml."
END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
"""The ids that end an answer: of a text, of a turn, of a message before a tool's answer."""
NAMED: Final[Mapping[str, str]] = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}
"""Name in tokenizer_config.json -> key of its id."""
BYTE_LEVEL: Final = "gpt2"
PIECES: Final = ("llama", "gemma4")
PIECE_DEFAULTS: Final[Mapping[str, int]] = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
"""Ids of SentencePiece where a file names none."""
NEEDED: Final = ("bos_token_id", *END_KEYS)
"""Ids without which answers begin or end wrongly; one of the others that is not in the vocabulary is none, as in llama.cpp."""
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
"""Types of tokens."""
MAX_TOKEN: Final = 1000
"""Characters of a token: merges are looked for at each place of each."""
MAX_CHARACTERS: Final = 2**24
"""Characters of all tokens: six times as many as the largest vocabularies have."""
KINDS: Final[Mapping[str, tuple[type, ...]]] = {"tokens": (str,), "merges": (str,), "scores": (int, float), "token_type": (int,)}
"""Types of the items of lists."""


def write_tokenizer(metadata: Mapping[str, Any], out: Path) -> None:
    """Write the tokenizer of a GGUF file with this metadata into the folder `out`.

    Raises UserError for another kind of vocabulary, for one that is not whole, and for special ids that are not in it.
    """
    tokens = _list(metadata, "tokens")
    longest, total = max(map(len, tokens)), sum(map(len, tokens))
    if longest > MAX_TOKEN or total > MAX_CHARACTERS:
        raise _refusal("tokens", f"has {total:,} characters, and {longest:,} in one token", "词表过大")
    kind = metadata.get(f"{SECTION}model")
    if kind not in (BYTE_LEVEL, *PIECES):
        raise _refusal("model", f"is {kind!s:.40}, and {', '.join((BYTE_LEVEL, *PIECES))} can be read", "不支持这种词表")
    ids = special_ids(metadata)
    names = {name: str(tokens[ids[key]]) for name, key in NAMED.items() if key in ids}
    adds_bos = _adds_bos(metadata) and "bos_token" in names
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(metadata, tokens, set(ids.values())),
        **(_byte_level(metadata, tokens) if kind == BYTE_LEVEL else _pieces(metadata, tokens, names.get("unk_token"))),
        "post_processor": _post_processor(names["bos_token"], ids["bos_token_id"]) if adds_bos else None,
    }
    write_json(out / TOKENIZER_JSON, content)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "add_bos_token": adds_bos}
    write_json(out / TOKENIZER_CONFIG, settings | names)
    if template := metadata.get("tokenizer.chat_template"):
        (out / CHAT_TEMPLATE).write_text(str(template), encoding="utf-8", newline="")


def special_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Key -> id of the special tokens that the metadata name. Raises UserError where BOS or an end is not in the vocabulary."""
    size = len(metadata.get(f"{SECTION}tokens", ()))
    defaults = {key: token for key, token in PIECE_DEFAULTS.items() if token < size} if metadata.get(f"{SECTION}model") == "llama" else {}
    given = {key: metadata[f"{SECTION}{key}"] for key in (*NAMED.values(), *END_KEYS) if f"{SECTION}{key}" in metadata}
    known = {key: token for key, token in given.items() if type(token) is int and 0 <= token < size}
    for key in NEEDED:
        if key in given and key not in known:
            raise _refusal(key, f"is {given[key]!s:.40}, and the vocabulary has {size} tokens", f"特殊词元（{key}）不在词表中")
    return defaults | known


def generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a generation_config.json: BOS, and every id that ends an answer."""
    ids = special_ids(metadata)
    ends = sorted({ids[key] for key in END_KEYS if key in ids})
    return {**({"bos_token_id": ids["bos_token_id"]} if "bos_token_id" in ids else {}), **({"eos_token_id": ends} if ends else {})}


def _adds_bos(metadata: Mapping[str, Any]) -> bool:
    """Whether texts begin with BOS."""
    default = metadata.get(f"{SECTION}model") == "llama" or SPLITTINGS.get(str(metadata.get(f"{SECTION}pre")), DEFAULT).adds_bos
    return bool(metadata.get(f"{SECTION}add_bos_token", default))


def _added_tokens(metadata: Mapping[str, Any], tokens: Sequence[str], named: set[int]) -> list[dict[str, Any]]:
    """Tokens that are found in a text before anything else: those for control are special, those of the user are not."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": token, "content": name, **flags, "special": special}
        for token, (name, kind) in enumerate(zip(tokens, _types(metadata, tokens), strict=True))
        if (special := kind == CONTROL or token in named) or (kind == USER_DEFINED and name.strip(" "))
    ]


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """Model and splitting of a byte-level vocabulary; tokens that are found as they stand need not be written in letters of bytes."""
    letters = bytes_of_letters()
    spelled = {value: letter for letter, value in letters.items()}
    vocabulary = {
        token
        if kind in (CONTROL, USER_DEFINED) or letters.keys() >= set(token)
        else "".join(spelled[value] for value in token.encode()): index
        for index, (token, kind) in enumerate(zip(tokens, _types(metadata, tokens), strict=True))
    }
    splitting = _splitting(metadata)
    splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in splitting.patterns]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "decoder": byte_level,
        "model": bpe_model(vocabulary, _given_merges(metadata, vocabulary)) | {"ignore_merges": splitting.keeps_words},
    }


def _splitting(metadata: Mapping[str, Any]) -> Splitting:
    """The splitting that the file names; GPT-2's, which is said, for a name that is not known."""
    name = metadata.get(f"{SECTION}pre")
    if name not in SPLITTINGS:
        found = "is missing" if name is None else f"is {name!s:.40}, which is not known"
        notice = Bilingual(
            f"{SECTION}pre {found}: texts are split as GPT-2 does, and their ids may differ from those that the model learned. "
            "Check its answers, or take the model's own release.",
            "分词方式未知：按 GPT-2 切分，编码可能与模型训练时不同；请检查回答，或使用模型的原始发布。",
        )
        say(f"note: {notice}")
    return SPLITTINGS.get(str(name), DEFAULT)


def _pieces(metadata: Mapping[str, Any], tokens: Sequence[str], unknown: str | None) -> dict[str, Any]:
    """Model, normalizer and decoder of a SentencePiece vocabulary with byte fallback."""
    respelled = [SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
    vocabulary = {token: index for index, token in enumerate(respelled)}
    merges = _given_merges(metadata, vocabulary) if f"{SECTION}merges" in metadata else _made_merges(metadata, respelled)
    prefix = bool(metadata.get(f"{SECTION}add_space_prefix", metadata.get(f"{SECTION}model") == "llama"))
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [prepend, spaces]} if prefix else spaces,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*decoders, strip] if prefix else decoders},
        "model": bpe_model(vocabulary, merges) | {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True},
    }


def _made_merges(metadata: Mapping[str, Any], tokens: Sequence[str]) -> list[list[str]]:
    """The merges of a SentencePiece vocabulary: each pair of tokens that forms a token, highest score first.

    The scores of Gemma do not follow its merges; the order of its tokens does. Tokens for control are not made of others.
    """
    by_index = str(metadata.get("general.architecture")).startswith("gemma")
    scores = [-float(index) for index in range(len(tokens))] if by_index else _list(metadata, "scores", len(tokens))
    usable = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, _types(metadata, tokens), strict=True))
        if kind not in (UNKNOWN, CONTROL, BYTE)
    }
    merges = [
        (-scores[index], index, -cut, token[:cut], token[cut:])
        for token, index in usable.items()
        for cut in range(1, len(token))
        if token[:cut] in usable and token[cut:] in usable
    ]
    return [[left, right] for _score, _index, _cut, left, right in sorted(merges)]


def _given_merges(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[list[str]]:
    """The merges of the file; one whose parts or result are not in the vocabulary never applies."""
    splits = ((merge, merge.find(" ", 1)) for merge in _list(metadata, "merges"))
    pairs = ((merge[:index], merge[index + 1 :]) for merge, index in splits if index > 0)
    return [[left, right] for left, right in pairs if {left, right, left + right} <= vocabulary.keys()]


def _types(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Sequence[int]:
    """The type of each token; none has one in old files."""
    return _list(metadata, "token_type", len(tokens)) if f"{SECTION}token_type" in metadata else [0] * len(tokens)


def _list(metadata: Mapping[str, Any], key: str, length: int | None = None) -> list[Any]:
    """A list of the metadata. Raises UserError where it is missing, or not of the length, or its items are of another type."""
    values = metadata.get(f"{SECTION}{key}")
    if not isinstance(values, list) or not values:
        raise _refusal(key, "is missing", "词表不完整")
    wrong = [value for value in values if type(value) not in KINDS[key]]
    if wrong:
        raise _refusal(key, f"has {wrong[0]!s:.40}, which is no {KINDS[key][0].__name__}", "词表的类型不对")
    if length is not None and len(values) != length:
        raise _refusal(key, f"has {len(values)} entries, and the vocabulary has {length} tokens", "词表不完整")
    return values


def _refusal(key: str, found: str, chinese: str) -> UserError:
    return UserError(
        Bilingual(
            f"{SECTION}{key}: {found}. Download the GGUF file again, or take one of another model.",
            f"{SECTION}{key}：{chinese}：请重新下载该 GGUF 文件，或换一个模型。",
        )
    )


def _post_processor(name: str, token: int) -> dict[str, Any]:
    """Puts BOS before every text; in the form of the tokenizers library."""
    bos = {"SpecialToken": {"id": name, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }
