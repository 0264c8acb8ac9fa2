"""An old shell script read without running it: its variables, and the command lines that call main.py.

Understood are assignments, `$A`, `${A}`, `${A:-else}`, `${A-else}`, `${A:?words}`, `~/`, quotes, backslashes, comments and continued lines;
what a script does beyond that (loops, functions, `$1`, `${A%.json}`, `$(...)`) is passed over as long as no flag needs it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imprint.errors import UserError

ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?(?:\?[^}]*|[-=]((?:[^{}]|\{[^{}]*\})*)))?\})")
INSIDE = (
    r"(?P<quote>\")|(?P<hidden>`[^`]*`|\$\((?:[^()]|\([^()]*\))*\))"
    rf"|(?P<variable>{re.sub('[(](?![?])', '(?:', VARIABLE.pattern)})|(?P<given>\$[@*])"
    r"|(?P<beyond>\$\{[^}]*\}|\$[0-9#?!$])|(?P<letter>.)"
)
QUOTED = re.compile(rf"\\(?P<escaped>[$`\"\\])|{INSIDE}")
PLAIN = re.compile(
    rf"\\(?P<escaped>.)|'(?P<literal>[^']*)'|(?P<comment>#)|(?P<home>~(?=/))|(?P<aside>\d?[<>]+&?\s*[^\s;&|<>]*)|(?P<end>[&|;()])|(?P<blank>\s)|{INSIDE}"
)
UNKNOWN = "\0"
"""Stands in a word for what only running the script would tell."""


@dataclass
class Word:
    """One word of a command as it is put together."""

    text: str = ""
    """Its characters so far."""
    begun: bool = False
    """Whether it is one: `""` is a word without characters."""
    unset: list[str] = field(default_factory=list)
    """Variables that nobody has set."""
    given: bool = False
    """Whether it is the script's own arguments, `"$@"`; there are none."""


def commands(path: Path, environment: Mapping[str, str]) -> list[list[str]]:
    """The arguments of each call of main.py in a script, as the shell would pass them; `environment` is what it would inherit.

    Raises UserError for a file that cannot be read, and for flags whose value the script alone does not tell.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such script. Give an old train.sh, or a JSON file of arguments.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a script ({error}). Give an old train.sh, or a JSON file of arguments.") from None
    known = dict(environment)
    found = []
    for line in text.replace("\r\n", "\n").replace("\\\n", "").split("\n"):
        for words in _split(line, known):
            rest = _assign(words, known)
            place = next((number for number, word in enumerate(rest) if Path(word.text).name in ("main.py", "main_parallel.py")), None)
            if place is None and [word.text for word in rest[:2]] == ["imprint", "main"]:
                place = 1
            if place is not None:
                found.append(_arguments(rest[place + 1 :], path))
    return found


def _assign(words: list[Word], known: dict[str, str]) -> list[Word]:
    """Note the assignments in front of a command; what is left of it. That some hold for one command alone decides nothing here."""
    rest = words[1:] if words and words[0].text in ("export", "declare", "local", "readonly") else words
    while rest and (match := ASSIGNED.fullmatch(rest[0].text)):
        known[match[1]] = match[2] + (UNKNOWN if rest[0].unset else "")
        rest = rest[1:]
    return rest


def _arguments(words: list[Word], path: Path) -> list[str]:
    unset = sorted({name for word in words for name in word.unset})
    if unset:
        raise UserError(
            f"{path}: {', '.join(unset)} is set neither in the script nor in the environment. Set it: {unset[0]}=... imprint migrate {path}"
        )
    hidden = next((number for number, word in enumerate(words) if UNKNOWN in word.text), None)
    if hidden is not None:
        flag = next((word.text.partition("=")[0] for word in reversed(words[: hidden + 1]) if word.text.startswith("--")), "a flag")
        raise UserError(f"{path}: the value of {flag} is known only when the script runs. Write it into the script, then run again.")
    return [word.text for word in words if word.text != "--"]


def _split(line: str, known: Mapping[str, str]) -> Iterator[list[Word]]:
    """The words of each command on a line, expanded; what one command assigns, the next one may use."""
    words: list[Word] = []
    word, place, quoted = Word(), 0, False
    while match := (QUOTED if quoted else PLAIN).match(line, place):
        kind, place = str(match.lastgroup), match.end()
        if kind == "comment" and not word.begun:
            break
        if kind in ("blank", "aside", "end"):
            word = _end(word, words)
            if kind == "end":
                yield words
                words = []
        elif kind == "quote":
            quoted, word.begun = not quoted, True
        elif kind == "variable":
            _expand(match[0], word, known, words, quoted=quoted)
        elif kind == "given":
            word.given = True
        elif kind == "home" and not word.begun:
            word.text, word.begun = known.get("HOME", "~"), True
        else:
            word.text, word.begun = word.text + (UNKNOWN if kind in ("hidden", "beyond") else match[kind]), True
    _end(word, words)
    yield words


def _end(word: Word, words: list[Word]) -> Word:
    """Put a finished word to the others; returns the next one."""
    if word.text or word.unset or (word.begun and not word.given):
        words.append(word)
    return Word()


def _expand(variable: str, word: Word, known: Mapping[str, str], words: list[Word], *, quoted: bool) -> None:
    """Put what a variable stands for into the word; outside quotes its blanks divide words."""
    match = VARIABLE.fullmatch(variable)
    assert match, f"{variable} is no variable"
    name = match[1] or match[2]
    value = known.get(name)
    if not value and match[3] is not None:
        otherwise = next(iter(next(_split(f'"{match[3]}"', known))))
        value, word.unset = otherwise.text, word.unset + otherwise.unset
    if value is None:
        word.unset += [name]
        return
    first, *more = [value] if quoted else value.split() or [""]
    word.text, word.begun = word.text + first, word.begun or bool(first) or quoted
    for part in more:
        words.append(Word(word.text, begun=True, unset=word.unset))
        word.text, word.begun, word.unset = part, True, []
