"""The tokenizer of a GGUF file, written as tokenizer.json and tokenizer_config.json.

transformers converts vocabulary and merges. What it drops is taken from the metadata: whether texts begin with BOS, and further tokens
that end an answer; tokens that it adds are left out. Without `add_bos_token`, vocabularies of SentencePiece begin with BOS and byte-level
ones do not, as in llama.cpp (`llama_vocab::impl::load` in src/llama-vocab.cpp).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from imprint.files.atomic import write_json
from imprint.files.reading import read_json_object
from imprint.messages import Bilingual, UserError
from imprint.tokenizers.hf import TOKENIZER_JSON
from imprint.tokenizers.special_tokens import TOKENIZER_CONFIG

SECTION: Final = "tokenizer.ggml."
END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
"""The ids that end an answer: of a text, of a turn, of a message before a tool's answer."""


def write_tokenizer(folder: Path, gguf_name: str, metadata: Mapping[str, Any], out: Path) -> None:
    """Write the tokenizer of the GGUF file `folder / gguf_name` into the folder `out`. Raises UserError where its BOS is not in it."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder, gguf_file=gguf_name).save_pretrained(out)
    bos = metadata.get(f"{SECTION}bos_token_id")
    adds_bos = bool(metadata.get(f"{SECTION}add_bos_token", metadata.get(f"{SECTION}model") == "llama"))
    fields = read_json_object(out / TOKENIZER_CONFIG)
    write_json(out / TOKENIZER_CONFIG, fields | {"add_bos_token": adds_bos and bos is not None})
    content = json.loads((out / TOKENIZER_JSON).read_text(encoding="utf-8"))
    size = len(metadata.get(f"{SECTION}tokens", ()))  # transformers adds default special tokens of its own, which have no embedding
    content["added_tokens"] = [token for token in content.get("added_tokens", ()) if token["id"] < size]
    content["post_processor"] = _post_processor(_token_name(metadata, bos), bos) if adds_bos and bos is not None else None
    write_json(out / TOKENIZER_JSON, content)


def generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a generation_config.json: BOS, and every id that ends an answer."""
    ends = [metadata[key] for name in END_KEYS if (key := f"{SECTION}{name}") in metadata]
    bos = metadata.get(f"{SECTION}bos_token_id")
    return {**({} if bos is None else {"bos_token_id": bos}), **({"eos_token_id": sorted(set(ends))} if ends else {})}


def _token_name(metadata: Mapping[str, Any], token: int) -> str:
    names = metadata.get(f"{SECTION}tokens", ())
    if not 0 <= token < len(names):
        raise UserError(
            Bilingual(
                f"{SECTION}bos_token_id: is {token}, and the vocabulary has {len(names)} tokens. Download the GGUF file again.",
                "起始符（bos_token_id）不在词表中：请重新下载该 GGUF 文件。",
            )
        )
    return str(names[token])


def _post_processor(name: str, token: int) -> dict[str, Any]:
    """Puts BOS before every text; in the form of the tokenizers library."""
    bos = {"SpecialToken": {"id": name, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }
