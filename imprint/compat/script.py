"""Parses an old shell script without running it: its variables, and the command lines that call main.py.

Supported are assignments, `$A`, `${A}`, `${A:-else}`, `${A-else}`, `${A:?words}`, `~/`, `$(dirname "$0")`, quotes, backslashes, comments
and continued lines;
anything else (loops, functions, `$1`, `${A%.json}`, `$(...)`) is ignored unless a flag needs it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imprint.files.reading import read_text
from imprint.messages import Bilingual, UserError

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?(?:\?[^}]*|[-=]((?:[^{}]|\{[^{}]*\})*)))?\})")
ANYWHERE = (
    r"(?P<quote>\")|(?P<substitution>`[^`]*`|\$\((?:[^()]|\([^()]*\))*\))"
    rf"|(?P<variable>{re.sub('[(](?![?])', '(?:', VARIABLE.pattern)})|(?P<arguments>\$[@*])"
    r"|(?P<unsupported>\$\{[^}]*\}|\$[0-9#?!$])|(?P<letter>.)"
)
QUOTED = re.compile(rf"\\(?P<escaped>[$`\"\\])|{ANYWHERE}")
PLAIN = re.compile(
    rf"\\(?P<escaped>.)|'(?P<literal>[^']*)'|(?P<comment>#)|(?P<home>~(?=/))|(?P<redirection>\d?[<>]+&?\s*[^\s;&|<>]*)|(?P<end>[&|;()])|(?P<blank>\s)|{ANYWHERE}"
)
"""QUOTED and PLAIN match the next part of a line, inside and outside double quotes; the name of the group is its kind."""
OWN_FOLDER = re.compile(r"""\$\(dirname "?\$\{?0\}?"?\)|`dirname "?\$\{?0\}?"?`""")
"""The folder of the script, as a script itself asks for it."""
UNKNOWN = "\0"
"""Placeholder in a word for text that only running the script would show."""


@dataclass
class Word:
    """One word of a command while it is parsed."""

    text: str = ""
    """Its text so far."""
    is_started: bool = False
    """Whether it has started: `""` is a word without characters."""
    unset: list[str] = field(default_factory=list)
    """Its variables that are not set."""
    is_arguments: bool = False
    """Whether it is the script's own arguments, `"$@"`, of which there are none."""


def main_calls(path: Path, environment: Mapping[str, str]) -> list[list[str]]:
    """The arguments of each call of main.py in a script, as the shell would pass them; `environment` is what it would inherit.

    Raises UserError for a file that cannot be read, and for flags whose values are unknown without running the script.
    """
    try:
        text = read_text(path, "utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            Bilingual(
                f"{path}: there is no such script. Give an old train.sh, or a JSON file of arguments.",
                f"{path}：没有这个脚本。请给出旧的 train.sh，或参数的 JSON 文件。",
            )
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            Bilingual(
                f"{path}: cannot be read as a script ({error}). Give an old train.sh, or a JSON file of arguments.",
                f"{path}：无法作为脚本读取（{error}）。请给出旧的 train.sh，或参数的 JSON 文件。",
            )
        ) from None
    variables = dict(environment)
    calls = []
    text = OWN_FOLDER.sub(lambda _match: path.parent.as_posix(), text)
    for line in text.replace("\r\n", "\n").replace("\\\n", "").split("\n"):
        for words in _split(line, variables):
            rest = _assign(words, variables)
            index = next((index for index, word in enumerate(rest) if Path(word.text).name in ("main.py", "main_parallel.py")), None)
            if index is None and [word.text for word in rest[:2]] == ["imprint", "main"]:
                index = 1
            if index is not None:
                calls.append(_arguments(rest[index + 1 :], path))
    return calls


def _assign(words: list[Word], variables: dict[str, str]) -> list[Word]:
    """Record the assignments in front of a command; returns the rest of it. An assignment for one command is treated as one for all."""
    rest = words[1:] if words and words[0].text in ("export", "declare", "local", "readonly") else words
    while rest and (match := ASSIGNMENT.fullmatch(rest[0].text)):
        variables[match[1]] = match[2] + (UNKNOWN if rest[0].unset else "")
        rest = rest[1:]
    return rest


def _arguments(words: list[Word], path: Path) -> list[str]:
    unset = sorted({name for word in words for name in word.unset})
    if unset:
        names, example = ", ".join(unset), f"{unset[0]}=... imprint migrate {path}"
        raise UserError(
            Bilingual(
                f"{path}: {names} is set neither in the script nor in the environment. Set it: {example}",
                f"{path}：脚本和环境变量中都没有设置 {names}。请设置：{example}",
            )
        )
    unknown = next((index for index, word in enumerate(words) if UNKNOWN in word.text), None)
    if unknown is not None:
        flag = next((word.text.partition("=")[0] for word in reversed(words[: unknown + 1]) if word.text.startswith("--")), "a flag")
        raise UserError(
            Bilingual(
                f"{path}: the value of {flag} is known only when the script runs. Write it into the script, then run again.",
                f"{path}：{flag} 的值只有运行脚本才知道。请把值直接写进脚本后重试。",
            )
        )
    return [word.text for word in words if word.text != "--"]


def _split(line: str, variables: Mapping[str, str]) -> Iterator[list[Word]]:
    """The words of each command on a line, with variables expanded; lazy, because a command may use what the one before it assigned."""
    words: list[Word] = []
    word, position, quoted = Word(), 0, False
    while match := (QUOTED if quoted else PLAIN).match(line, position):
        kind, position = str(match.lastgroup), match.end()
        if kind == "comment" and not word.is_started:
            break
        if kind in ("blank", "redirection", "end"):
            word = _end_word(word, words)
            if kind == "end":
                yield words
                words = []
        elif kind == "quote":
            quoted, word.is_started = not quoted, True
        elif kind == "variable":
            _expand(match[0], word, variables, words, quoted=quoted)
        elif kind == "arguments":
            word.is_arguments = True
        elif kind == "home" and not word.is_started:
            word.text, word.is_started = variables.get("HOME", "~"), True
        else:
            word.text, word.is_started = word.text + (UNKNOWN if kind in ("substitution", "unsupported") else match[kind]), True
    _end_word(word, words)
    yield words


def _end_word(word: Word, words: list[Word]) -> Word:
    """Append a finished word; returns a new one."""
    if word.text or word.unset or (word.is_started and not word.is_arguments):
        words.append(word)
    return Word()


def _expand(variable: str, word: Word, variables: Mapping[str, str], words: list[Word], *, quoted: bool) -> None:
    """Append the value of a variable to the word; outside quotes its blanks separate words."""
    match = VARIABLE.fullmatch(variable)
    assert match, f"{variable} is no variable"
    name = match[1] or match[2]
    value = variables.get(name)
    if not value and match[3] is not None:
        default = next(iter(next(_split(f'"{match[3]}"', variables))))
        value, word.unset = default.text, word.unset + default.unset
    if value is None:
        word.unset += [name]
        return
    first, *more = [value] if quoted else value.split() or [""]
    word.text, word.is_started = word.text + first, word.is_started or bool(first) or quoted
    for part in more:
        words.append(Word(word.text, is_started=True, unset=word.unset))
        word.text, word.is_started, word.unset = part, True, []
