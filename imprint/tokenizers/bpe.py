"""A byte-pair encoding as the tokenizers library stores it in tokenizer.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def bpe_model(vocabulary: Mapping[str, int], merges: Iterable[Sequence[str]]) -> dict[str, Any]:
    """The `model` of a tokenizer.json: pieces by id, and the pairs that are joined, the first one first."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocabulary),
        "merges": [list(pair) for pair in merges],
    }
