"""The line editor of a terminal chat, by prompt_toolkit. The history stays in memory."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from imprint.chat.slash_commands import COMMANDS, is_command
from imprint.terminal import harmless


class Editor:
    """Reads a question or a command, of one line or several."""

    def __init__(self, models: Sequence[str] = ()) -> None:
        self._session: PromptSession[str] = PromptSession(
            multiline=True,  # for pasted lines; Enter still sends, see `_keys`
            key_bindings=_keys(),
            completer=Commands(models),
            complete_while_typing=Condition(lambda: is_command(get_app().current_buffer.text)),
            history=InMemoryHistory(),
            prompt_continuation=lambda width, _line, _wraps: " " * width,
            reserve_space_for_menu=len(COMMANDS) + 1,
            enable_suspend=True,
        )

    def read(self, prompt: str, /) -> str:
        """The text typed after `prompt`. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C on an empty line."""
        return self._session.prompt([("bold", prompt)])


@contextmanager
def echo_off() -> Iterator[None]:
    """Do not echo typed keys inside this block; they appear on the next line. Ctrl-C works as usual."""
    if sys.platform == "win32":
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    try:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, [*before[:3], before[3] & ~termios.ECHO, *before[4:]])
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


class Commands(Completer):
    """Completes commands and their arguments; `models`: those of a service."""

    def __init__(self, models: Sequence[str] = ()) -> None:
        self._choices = {name: command.choices for name, command in COMMANDS.items()} | {"model": tuple(models)}

    def get_completions(self, document: Document, _event: CompleteEvent) -> Iterable[Completion]:
        """Commands that start with the typed text, or arguments of a command."""
        typed = document.text_before_cursor
        if not is_command(typed):
            return
        name, space, argument = typed[1:].partition(" ")
        if not space:
            for known, command in COMMANDS.items():
                if known.startswith(name.lower()):
                    ending = " " if command.arguments else ""
                    yield Completion(f"/{known}{ending}", -len(typed), display=f"/{known}", display_meta=command.help.line)
            return
        choices = self._choices.get(name.lower(), ())
        yield from (Completion(word, -len(argument)) for word in choices if word.startswith(argument) and harmless(word) == word)


def _keys() -> KeyBindings:
    """Enter sends and Alt-Enter begins a new line; Ctrl-C empties the line, and on an empty one raises KeyboardInterrupt in the caller."""
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _empty(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys
