"""The vocabularies of ChatGLM2, ChatGLM3 and GLM-4 as a `tokenizer.json`, which transformers and vLLM read without code from a folder.

A SentencePiece or tiktoken vocabulary becomes BPE merges in the order of the original; special ids stay the same. The special token that
ChatGLM2 and ChatGLM3 call `sop` is written `<sop>`: a tokenizer.json finds special tokens in typed text, and `sop` occurs in English
words.

Source of the format: the `tokenizers` library; of the vocabularies: tokenization_chatglm.py of each family.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from imprint.tokenizers import SPACE
from imprint.tokenizers.bpe import bpe_model

RENAMED: Final = {"sop": "<sop>", "eop": "<eop>"}
Merges = list[tuple[str, str]]


def sentencepiece_json(pieces: Sequence[str], scores: Sequence[float], special_ids: Mapping[str, int]) -> dict[str, Any]:
    """A SentencePiece BPE vocabulary with byte fallback, which adds a space before each text."""
    vocabulary = {piece: rank for rank, piece in enumerate(pieces)}
    model = bpe_model(vocabulary, _merges(vocabulary, scores)) | {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    normalizer = [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    decoder = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return _tokenizer_json(
        model,
        special_ids,
        {
            "normalizer": {"type": "Sequence", "normalizers": normalizer},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": decoder},
        },
    )


def tiktoken_json(pieces: Sequence[bytes], split: str, special_ids: Mapping[str, int]) -> dict[str, Any]:
    """A tiktoken vocabulary: pieces in the order of their ranks; `split` is the pre-tokenization pattern."""
    letters = letters_of_bytes()
    vocabulary = {"".join(letters[value] for value in piece): rank for rank, piece in enumerate(pieces)}
    pre_tokenizer = [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    return _tokenizer_json(
        bpe_model(vocabulary, _merges(vocabulary)) | {"ignore_merges": True},
        special_ids,
        {
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizer},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        },
    )


def tokenizer_config(special_tokens: Sequence[str], *, end_token: str, chat_template: str, max_length: int) -> dict[str, Any]:
    """The fields of a tokenizer_config.json beside such a vocabulary."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_token,
        "pad_token": end_token,
        "padding_side": "left",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
        "extra_special_tokens": list(special_tokens),
        "model_input_names": ["input_ids", "attention_mask"],
    }


CHATGLM2_CHAT_TEMPLATE: Final = (
    "[gMASK]<sop>{%- set round = namespace(number=0) -%}{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{- message['content'] + '\\n\\n' -}}"
    "{%- elif message['role'] == 'user' -%}{%- set round.number = round.number + 1 -%}"
    "{{- '[Round ' ~ round.number ~ ']\\n\\n问：' ~ message['content'] ~ '\\n\\n答：' -}}"
    "{%- else -%}{{- message['content'] + '\\n\\n' -}}{%- endif -%}{%- endfor -%}"
)
"""ChatGLM2's rounds as a chat template."""


CHAT_TEMPLATES: Final = {
    "plain": (
        "{%- for message in messages -%}{%- if message['role'] == 'system' -%}{{- message['content'] + '\\n\\n' -}}"
        "{%- elif message['role'] == 'user' -%}{{- '问：' ~ message['content'] ~ '\\n答：' -}}"
        "{%- else -%}{{- message['content'] ~ '\\n' -}}{%- endif -%}{%- endfor -%}"
    ),
    "bare": (
        "{%- for message in messages -%}{%- if message['role'] == 'system' -%}{{- message['content'] + '\\n\\n' -}}"
        "{%- elif message['role'] == 'user' -%}{{- message['content'] -}}"
        "{%- else -%}{{- message['content'] ~ '\\n' -}}{%- endif -%}{%- endfor -%}"
    ),
}
"""Name of our template for a folder without a chat template -> the same as a Jinja chat template."""


def role_chat_template(separator: str) -> str:
    """The chat template of ChatGLM3 and GLM-4; `separator` separates a role from its text, which the original encodes separately."""
    return (
        "[gMASK]<sop>{%- for message in messages -%}{{- '<|' ~ message['role'] ~ '|>' ~ message.get('metadata', '') ~ '"
        + separator
        + "' ~ message['content'] -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
    )


def letters_of_bytes() -> list[str]:
    """The letter of each byte in a byte-level vocabulary, as `bytes_to_unicode` of GPT-2: a printable one, or one from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(value if value in printable else next(others)) for value in range(256)]


def _merges(vocabulary: Mapping[str, int], scores: Sequence[float] | None = None) -> Merges:
    """The BPE merges: every pair of pieces that forms a piece, highest score first, or lowest rank without scores.

    Every pair, because both originals merge any two neighbours that form a piece, however these were formed.
    """
    merges = []
    for piece, rank in vocabulary.items():
        order = rank if scores is None else -scores[rank]
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((order, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for _order, _left_rank, _right_rank, left, right in sorted(merges)]


def _tokenizer_json(model: dict[str, Any], special_ids: Mapping[str, int], parts: Mapping[str, Any]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {"id": index, "content": RENAMED.get(name, name), **flags} for name, index in sorted(special_ids.items(), key=lambda item: item[1])
    ]
    start = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("[gMASK]", "<sop>")]
    ids = {entry["content"]: entry["id"] for entry in added}
    post_processor = {
        "type": "TemplateProcessing",
        "single": [*start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [*start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("[gMASK]", "<sop>")},
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **parts,
        "post_processor": post_processor,
        "model": model,
    }
