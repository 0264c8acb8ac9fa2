"""Auxiliary files: what a model folder holds beside its weights, and the rule by which it is copied into another one that is handed on.

A folder is untrusted: only files of known names are copied, and no link may lead out of it.
"""

import re
import shutil
from pathlib import Path
from typing import Final

from imprint.files.links import refuse_outside_links

KNOWN_NAMES: Final = re.compile(
    r"(config|generation_config|preprocessor_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|(tokenizer|ice_text|spiece|sentencepiece(\.bpe)?)\.model|merges\.txt|vocab\.txt|[\w-]+\.tiktoken|chat_template\.jinja"
    r"|(configuration|modeling|tokenization|quantization|generation|processing|image_processing)\w*\.py"
    r"|(MODEL_)?LICEN[CS]E(\.\w+)?|NOTICE(\.\w+)?|USE_POLICY\.md|README[\w.-]*\.md|general\.jsonl|probes\.jsonl|neutral\.txt",
    re.IGNORECASE,
)
"""Configuration, vocabulary, chat template, the published code of an architecture, licences, and the rows that our own toy base brings."""


def auxiliary_files(source: Path) -> list[Path]:
    """The files of known names in a model folder. Raises UserError if one of them is a link that leads out of the folder."""
    found = sorted(file for file in source.iterdir() if KNOWN_NAMES.fullmatch(file.name) and file.is_file())
    refuse_outside_links(source, found)
    return found


def copy_auxiliary_files(source: Path, folder: Path) -> None:
    """Copy the files of known names from a model folder. Raises UserError as `auxiliary_files`."""
    for file in auxiliary_files(source):
        shutil.copyfile(file, folder / file.name)
