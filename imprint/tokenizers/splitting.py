"""How byte-level vocabularies split a text before they merge bytes: patterns by the names that GGUF files give in `tokenizer.ggml.pre`.

Source of the names, and of what goes with them: `llama_vocab::impl::load` and `llm_tokenizer_bpe` in src/llama-vocab.cpp of llama.cpp
(github.com/ggml-org/llama.cpp); of the patterns: the tokenizer.json of the models that are named, which llama.cpp cites.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Final

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_START = r"[^\r\n\p{L}\p{N}]?"
_LOWER_END = _START + r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER_START = _START + r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_DIGIT = r"\p{N}"
_THREE_DIGITS = r"\p{N}{1,3}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENDINGS}|{_START}\p{{L}}+|{_THREE_DIGITS}|{_REST}"
_QWEN2 = rf"{_ENDINGS}|{_START}\p{{L}}+|{_DIGIT}|{_REST}"
_QWEN35 = rf"{_ENDINGS}|{_START}[\p{{L}}\p{{M}}]+|{_DIGIT}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_LOWER_END}|{_UPPER_START}|{_DIGIT}|{_REST_WITH_SLASH}"
_GPT4O = rf"{_LOWER_END}{_ENDINGS}?|{_UPPER_START}{_ENDINGS}?|{_THREE_DIGITS}|{_REST_WITH_SLASH}"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


@dataclass(frozen=True)
class Splitting:
    """What the name of a pre-tokenizer says of a vocabulary."""

    patterns: tuple[str, ...]
    """Regular expressions, one after another: what matches, and what stands between, is merged on its own."""
    keeps_words: bool = False
    """Whether a part that is a token as a whole becomes that token, whatever the merges make of it."""
    adds_bos: bool = False
    """Whether texts begin with BOS where the file does not say so."""


def _named(names: str, splitting: Splitting) -> dict[str, Splitting]:
    return dict.fromkeys(names.split(), splitting)


DEFAULT: Final = Splitting((_GPT2,))
SPLITTINGS: Final[Mapping[str, Splitting]] = MappingProxyType(
    dict(
        chain.from_iterable(
            _named(names, splitting).items()
            for names, splitting in (
                ("gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat mellum exaone4 a.x-4.0", DEFAULT),
                ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", Splitting((_DIGIT, _GPT2))),
                (
                    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
                    Splitting((_LLAMA3,), keeps_words=True, adds_bos=True),
                ),
                ("dbrx smaug-bpe glm4 chatglm-bpe", Splitting((_LLAMA3,))),
                ("qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2", Splitting((_QWEN2,))),
                ("qwen35", Splitting((_QWEN35,))),
                ("tekken", Splitting((_TEKKEN,), keeps_words=True, adds_bos=True)),
                ("gpt-4o llama4 kanana2 talkie minimax-m2", Splitting((_GPT4O,))),
                ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", Splitting((_THREE_DIGITS, "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3))),
                ("deepseek-coder", Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT))),
                ("falcon", Splitting((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
                ("bloom poro-chat gpt3-finnish", Splitting((_BLOOM,))),
                ("viking", Splitting((_BLOOM, _DIGIT))),
            )
        )
    )
)
"""Name -> splitting."""
