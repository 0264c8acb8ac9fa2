"""The licence of a base and what it is called, by what lies in its folder; of each file only the beginning is read.

Users of a service and readers of an export are shown it, so no link is followed out of the folder, to a file that is not theirs to see.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from imprint.files.links import refuse_outside_links
from imprint.files.reading import read_bounded
from imprint.messages import UserError

BEGINNING_BYTES: Final = 2**16
"""How much of a licence or a README is read, and the largest import.json."""
MAX_CHARACTERS: Final = 200
"""Characters of a licence or a name that are shown."""
LICENCE_FILES: Final = re.compile(r"(MODEL_)?LICEN[CS]E(\.\w+)?", re.IGNORECASE)
IMPORTED: Final = "import.json"
"""What `imprint import` writes down of the file that a folder was made from."""
FREE: Final = re.compile(r"\b(apache|mit|bsd|isc|unlicense|cc0|cc-by-[1-4]|cc-by-sa|mpl|zlib|afl|artistic|l?gpl|agpl)\b", re.IGNORECASE)
"""In licences that allow any use."""
RESEARCH: Final = re.compile(r"\bnc\b|non-?\s?commercial|research|chatglm|glm-4", re.IGNORECASE)
"""In licences for research; those of ChatGLM and GLM-4 weights ask for a registration before any other use."""
Use = Literal["any", "as stated", "research", "unknown"]
"""What a licence allows: any use; what it says itself; research, or more only after a registration; nothing is known."""


def read_licence(base: Path) -> str:
    """The licence of a base as `find_licence` finds it, else where to look it up."""
    return find_licence(base) or "not said by the base's folder; look it up where the base came from"


def find_licence(base: Path) -> str | None:
    """The licence of a base; None if nothing says it.

    The first line of a licence file, that of the weights before that of the code; `license` of the README; or what the GGUF file said that
    the folder was made from.
    """
    return next(filter(None, _named_licences(base)), None)


def imported_name(base: Path) -> str | None:
    """The name of the GGUF file that a base was made from, without its suffix; None for any other base."""
    return _shown(_fields(base / IMPORTED).get("file", "")).removesuffix(".gguf") or None


def use_of(licence: str | None) -> Use:
    """What a licence allows, by its name."""
    if licence is None:
        return "unknown"
    if RESEARCH.search(licence):
        return "research"
    return "any" if FREE.search(licence) else "as stated"


def _named_licences(base: Path) -> Iterator[str]:
    files = sorted(base.iterdir()) if base.is_dir() else []
    for file in sorted(files, key=lambda file: not file.name.upper().startswith("MODEL_")):
        if LICENCE_FILES.fullmatch(file.name) and file.is_file() and not _leads_out(file):
            lines = (line.strip() for line in _beginning(file).splitlines())
            yield f"{file.name}: {_shown(next((line for line in lines if line), 'empty'))}"
    yield _of_readme(_beginning(base / "README.md"))
    yield _shown(_fields(base / IMPORTED).get("licence", ""))


def _of_readme(text: str) -> str:
    """`license_name` of the fields at the top of a README, else `license`."""
    top = re.match(r"\ufeff?---[^\S\n]*\n(.*?)\n---", text, re.DOTALL)
    fields = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*)$", top[1] if top else "", re.MULTILINE))
    return _shown(fields.get("license_name") or fields.get("license", "")).strip("\"'")


def _beginning(file: Path) -> str:
    if not file.is_file() or _leads_out(file):
        return ""
    with file.open("rb") as opened:
        return opened.read(BEGINNING_BYTES).decode("utf-8", errors="replace")


def _leads_out(file: Path) -> bool:
    """Whether a file of a folder is a link to one outside of it."""
    try:
        refuse_outside_links(file.parent, [file])
    except UserError:
        return True
    return False


def _fields(file: Path) -> Mapping[str, Any]:
    """The fields of a small JSON file; none if it is missing, a link that leads out of its folder, or something else."""
    try:
        content = {} if _leads_out(file) else json.loads(read_bounded(file, BEGINNING_BYTES))
    except (OSError, ValueError, RecursionError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def _shown(text: object) -> str:
    """A text of somebody else's file on one line, without control characters."""
    return "".join(filter(str.isprintable, text[:MAX_CHARACTERS])).strip() if isinstance(text, str) else ""
