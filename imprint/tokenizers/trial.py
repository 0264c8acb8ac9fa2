"""A trial of an unusual tokenizer.json in a process of its own: the library may panic, abort or never end, which nothing can catch."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError
from imprint.tokenizers.backtracking import may_backtrack

MAX_VALUES: Final = 8_000_000
"""Values in a file; published vocabularies have up to two million."""
TRIAL_SECONDS: Final = 8
TRIAL_BYTES: Final = 400 << 20
BYTES_PER_BYTE: Final = 40
"""Memory of the trial, and what each byte of the file adds to it."""
MAX_STEPS: Final = 100
"""Steps or tokens of a part, of which published vocabularies have about ten."""
MAX_PATTERN: Final = 10_000
"""Characters of all patterns that need no trial; published ones have a few hundred, and each class of letters takes 20 KB of memory."""
MAX_WRITTEN: Final = 8
"""Characters that a normalizer may write for one."""
COMMON_TYPES: Final = frozenset(
    {
        *("Sequence", "ByteLevel", "Metaspace", "Digits", "Split", "Punctuation", "WhitespaceSplit", "Replace", "Prepend", "Strip"),
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "TemplateProcessing", "RobertaProcessing", "BPE", "Unigram"),
    }
)
"""Parts that published vocabularies have; they do no harm unless a text in them is empty."""
AFFIXES: Final = ("continuing_subword_prefix", "end_of_word_suffix")
"""Texts of a model on which the library may panic; published ones leave them empty."""
NEEDED_TEXTS: Final = frozenset({"prepend", "String", "Regex"})
"""Fields on which the library panics if they are empty."""
LARGE: Final = 2**23
"""Bytes of a file whose merges are worth leaving out."""
TEXT: Final = rb'"(?:[^"\\]++|\\.)*+"'
MERGE: Final = TEXT + rb"|\[\s*+" + TEXT + rb"\s*+,\s*+" + TEXT + rb"\s*+\]"
MERGES: Final = re.compile(rb'(?<!\\)"merges"\s*+:\s*+\[(?:\s*+(?:' + MERGE + rb")\s*+,?+)*+\s*+\]", re.DOTALL)
"""A list of texts or of pairs of them; a quotation mark inside a text stands after a backslash."""
TRIAL: Final = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), int(sys.argv[1])))
from tokenizers import Tokenizer
rust = Tokenizer.from_str(sys.stdin.buffer.read().decode())
rust.no_truncation()
rust.no_padding()
for special in (False, True):
    rust.encode_special_tokens = special
    for text in json.loads(sys.argv[2]):
        rust.encode(text)
run, seconds = int(sys.argv[4]), float(sys.argv[5])
letters = json.loads(sys.argv[3])
every = [letter for letter in map(chr, range(0, 0x20000, 32) if letters else ()) if letter.isalpha()]
for text in [letter * run for letter in letters] + [letter * (run // 5) for letter in every]:
    begin = time.process_time()
    rust.encode(text)
    if time.process_time() - begin > seconds:
        sys.exit(f"{len(text)} times {text[0]!r} take more than {seconds} seconds")
"""
TEXTS: Final = ("", "a", " ", "Hello, 你好 123!\n\n  <x>", "e\u0301\U0001f600\t")
"""What is encoded on trial, besides runs of the letters in its patterns."""
LETTERS: Final = ("a", "A", "好", "é", "1", " ", "\n", ".")
RUN: Final = 1000
"""So many of each of these, and a fifth of a letter of each script, are encoded where a pattern may take a time that grows with a power of
their number."""
RUN_SECONDS: Final = 0.5
"""Most processor time for one of these, which takes a published vocabulary a millisecond."""
LETTERS_TRIED: Final = 100
"""Letters of the patterns that are tried."""


def refuse_large(file: Path, content: bytes) -> None:
    """Raise UserError for a tokenizer.json with so many values that reading it would take all memory."""
    values = content.count(b",") + content.count(b"[") + content.count(b"{")
    if values > MAX_VALUES:
        raise UserError(
            Bilingual(
                f"{file} has {values} values, and a vocabulary of {MAX_VALUES} is the largest that is read. Download the file again.",
                f"{file}：词表过大（{values} 个值）：请重新下载。",
            )
        )


def without_merges(content: bytes) -> bytes:
    """A large tokenizer.json without its merges, half of it: they say nothing about harm, and Python needs a second to parse them."""
    return content if len(content) < LARGE else MERGES.sub(b'"merges": []', content, count=1)


def refuse_harmful(file: Path, content: bytes, fields: Mapping[str, object], size: object = None) -> None:
    """Raise UserError for an unusual tokenizer.json on which the library fails; a usual one is not tried, since that takes a second.

    The same for ids that the model of `size` tokens lacks, and for one id of a special token and of a piece.
    """
    _refuse_ids(file, fields, size)
    parts = [fields.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "model")]
    patterns = [pattern for part in parts[:2] for pattern in _patterns(part)]
    if (steps := max(map(_longest, parts[:3]))) > MAX_STEPS:
        raise _unusable(file, f"a list in it has {steps} steps or tokens; at most {MAX_STEPS} are read")
    is_usual = all(map(_is_common, parts)) and not list(_patterns(parts[0])) and sum(map(len, patterns)) <= MAX_PATTERN
    if is_usual and not any(map(may_backtrack, patterns)):
        return
    letters = sorted({letter for pattern in patterns for letter in pattern}, reverse=True)[:LETTERS_TRIED]
    long = "".join([*LETTERS, *letters]) if any(map(may_backtrack, patterns)) else ""
    texts = json.dumps([*TEXTS, *(letter * 40 + "b!" for letter in letters)])
    memory = TRIAL_BYTES + BYTES_PER_BYTE * len(content)
    arguments = [sys.executable, "-c", TRIAL, str(memory), texts, json.dumps(long), str(RUN), str(RUN_SECONDS)]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(arguments, input=content, capture_output=True, timeout=TRIAL_SECONDS, check=False, env=environment)
    except subprocess.TimeoutExpired:
        reason = f"it takes more than {TRIAL_SECONDS} seconds"
    else:
        if done.returncode == 0:
            return
        reason = _last_line(done.stderr) or f"it ended with status {done.returncode}"
    raise _unusable(file, reason)


def _unusable(file: Path, reason: str) -> UserError:
    return UserError(
        Bilingual(
            f"{file} cannot be used as a tokenizer ({reason}). Download the file again, or take one of the model's own release.",
            f"{file}：无法使用该分词器：请重新下载，或使用官方文件。",
        )
    )


def _longest(part: object) -> int:
    """Items of the longest list in a part."""
    inside = list(part.values()) if isinstance(part, dict) else part if isinstance(part, list) else []
    return max([len(part) if isinstance(part, list) else 0, *map(_longest, inside)])


def _refuse_ids(file: Path, fields: Mapping[str, object], size: object) -> None:
    """Raise UserError for ids of pieces that are too large, or those of special tokens."""
    model, listed = fields.get("model"), fields.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not all(type(token) is int for token in vocabulary.values()):
        return  # the library says what is wrong
    added = {token.get("content"): token.get("special") for token in listed if isinstance(token, dict)} if isinstance(listed, list) else {}
    if isinstance(size, int) and max(vocabulary.values(), default=0) >= size:
        beyond = max((token for name, token in vocabulary.items() if token >= size and name not in added), default=0)
        if beyond:
            raise UserError(
                Bilingual(
                    f"{file} needs {beyond + 1} ids, but config.json allows {size} (vocab_size). "
                    "Take both files from the same release of the model.",
                    f"{file}：词表与 config.json 不匹配：请从同一版本的模型中取这两个文件。",
                )
            )
    if len(set(vocabulary.values())) == len(vocabulary):
        return
    special = {vocabulary[name]: name for name, is_special in added.items() if is_special and name in vocabulary}
    if twice := [name for name, token in vocabulary.items() if special.get(token, name) != name]:
        token = vocabulary[twice[0]]
        raise UserError(
            Bilingual(
                f"{file}: {special[token]!r} and {twice[0]!r} have the same id, {token}, so a text could not be told from a special token. "
                "Download the file again.",
                f"{file}：{special[token]!r} 与 {twice[0]!r} 的 id 相同（{token}）：请重新下载该文件。",
            )
        )


def _is_common(part: object) -> bool:
    """Whether all parts inside are common ones, with the texts that they need."""
    if isinstance(part, list):
        return all(map(_is_common, part))
    if not isinstance(part, dict):
        return True
    kind = part.get("type")
    if kind in ("BPE", "Unigram"):
        return not any(part.get(name) for name in AFFIXES)
    if ("type" in part and kind not in COMMON_TYPES) or _grows(part) or (kind == "TemplateProcessing" and not _writes_once(part)):
        return False
    return all(_is_common(value) and not (name in NEEDED_TEXTS and value == "") for name, value in part.items())


def _grows(part: Mapping[str, object]) -> bool:
    """Whether a normalizer writes much for little, alone or by many steps."""
    steps = part.get("normalizers")
    written = [part.get("content"), part.get("prepend")]
    return (isinstance(steps, list) and len(steps) > MAX_WRITTEN) or any(
        isinstance(text, str) and len(text) > MAX_WRITTEN for text in written
    )


def _writes_once(part: Mapping[str, object]) -> bool:
    """Whether a template of a text holds the text once, and ids of all other tokens in it."""
    pieces, known = part.get("single"), part.get("special_tokens")
    if not isinstance(pieces, list) or not isinstance(known, dict):
        return False
    sequences = [piece["Sequence"].get("id") for piece in pieces if isinstance(piece, dict) and isinstance(piece.get("Sequence"), dict)]
    tokens = [
        piece["SpecialToken"].get("id") for piece in pieces if isinstance(piece, dict) and isinstance(piece.get("SpecialToken"), dict)
    ]
    return sequences == ["A"] and len(tokens) == len(pieces) - 1 and all(isinstance(token, str) and token in known for token in tokens)


def _patterns(part: object) -> Iterator[str]:
    """The regular expressions in a part."""
    if isinstance(part, dict):
        if isinstance(pattern := part.get("Regex"), str):
            yield pattern
        for value in part.values():
            yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)


def _last_line(output: bytes) -> str:
    """The last line of an error output."""
    lines = [line for line in output.decode(errors="replace").strip().splitlines() if not line.startswith("note: ")]
    return lines[-1][:200] if lines else ""
