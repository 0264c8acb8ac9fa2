"""A trial of an unusual tokenizer.json in a process of its own: the library may panic, abort or never end, which nothing can catch."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError

MAX_VALUES: Final = 8_000_000
"""Values in a file; published vocabularies have up to two million."""
TRIAL_SECONDS: Final = 8
TRIAL_BYTES: Final = 4 << 30
"""Address space of the trial; the threads of the library reserve much of it."""
COMMON_TYPES: Final = frozenset(
    {
        *("Sequence", "ByteLevel", "Metaspace", "Digits", "Split", "Punctuation", "WhitespaceSplit", "Replace", "Prepend", "Strip"),
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "TemplateProcessing", "RobertaProcessing", "BPE", "Unigram"),
    }
)
"""Parts that published vocabularies have; they do no harm unless a text in them is empty."""
NEEDED_TEXTS: Final = frozenset({"prepend", "String", "Regex"})
"""Fields on which the library panics if they are empty."""
REPEATED_GROUP: Final = re.compile(r"(?<!\\)\)[+*{]")
"""A repeated group in a pattern, which may take a time that doubles with each letter of a text."""
TRIAL: Final = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
from tokenizers import Tokenizer
rust = Tokenizer.from_str(sys.stdin.buffer.read().decode())
rust.no_truncation()
rust.no_padding()
for special in (False, True):
    rust.encode_special_tokens = special
    for text in json.loads(sys.argv[2]):
        rust.encode(text)
"""
TEXTS: Final = ("", "a", " ", "Hello, 你好 123!\n\n  <x>", "e\u0301\U0001f600\t")
"""What is encoded on trial, besides long runs of the letters in its patterns."""


def refuse_large(file: Path, content: bytes) -> None:
    """Raise UserError for a tokenizer.json with so many values that reading it would take all memory."""
    values = content.count(b",") + content.count(b"[") + content.count(b"{")
    if values > MAX_VALUES:
        raise UserError(
            Bilingual(
                f"{file} has {values} values, and a vocabulary of {MAX_VALUES} is the largest that is read. Download the file again.",
                f"词表过大（{values} 个值）：请重新下载。",
            )
        )


def refuse_harmful(file: Path, content: bytes, fields: Mapping[str, object]) -> None:
    """Raise UserError for an unusual tokenizer.json on which the library fails; a usual one is not tried, since that takes a second."""
    parts = [fields.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "model")]
    patterns = [pattern for part in parts[:2] for pattern in _patterns(part)]
    if all(map(_is_common, parts)) and not list(_patterns(parts[0])) and not any(map(REPEATED_GROUP.search, patterns)):
        return
    runs = [letter * 40 + "b!" for letter in sorted({letter for pattern in patterns for letter in pattern})[:100]]
    arguments = [sys.executable, "-c", TRIAL, str(TRIAL_BYTES), json.dumps([*TEXTS, *runs])]
    try:
        done = subprocess.run(arguments, input=content, capture_output=True, timeout=TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        reason = f"it takes more than {TRIAL_SECONDS} seconds"
    else:
        if done.returncode == 0:
            return
        reason = _last_line(done.stderr) or f"it ended with status {done.returncode}"
    raise UserError(
        Bilingual(
            f"{file} cannot be used as a tokenizer ({reason}). Download the file again, or take one of the model's own release.",
            "无法使用该分词器：请重新下载，或使用官方文件。",
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
        return True
    if "type" in part and kind not in COMMON_TYPES:
        return False
    return all(_is_common(value) and not (name in NEEDED_TEXTS and value == "") for name, value in part.items())


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
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""
