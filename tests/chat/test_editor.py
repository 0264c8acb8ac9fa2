"""A real terminal, typed into as by a person."""

import sys
import time

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import imprint
from imprint.chat.editor import Commands
from imprint.chat.slash_commands import COMMANDS
from imprint.model import Model
from imprint.runs import RunFolder
from tests.chat.talkative import prefix_run

if sys.platform != "linux":
    pytest.skip("a pseudo-terminal with a controlling process is made as Linux makes it", allow_module_level=True)

from tests.chat.terminal import SENT, Terminal
from tests.serve.web.scripted import KEY, ScriptedBackend, serving

ENTER, ALT_ENTER, BACKSPACE, CTRL_C, CTRL_D, UP, TAB = "\r", "\x1b\r", "\x7f", "\x03", "\x04", "\x1b[A", "\t"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose prefix changes what the embedded base says."""
    return prefix_run(tmp_path_factory.mktemp("editor"))


@pytest.fixture(scope="module")
def tuned(run: RunFolder) -> Model:
    return imprint.load("embedded", adapter=run.adapter, device="cpu")


def chat(*arguments: str) -> Terminal:
    """`imprint chat` in a terminal."""
    return Terminal([sys.executable, "-m", "imprint", "chat", *arguments], {})


def asked(terminal: Terminal, *keys: str) -> str:
    """Type a line; what is shown between it and the next prompt."""
    for key in keys:
        terminal.type(key)
    terminal.until(SENT)
    return terminal.prompt()


def test_a_chat_as_a_person_has_it(run: RunFolder, tuned: Model) -> None:
    thanks = tuned.chat("谢谢", temperature=0)[0]
    with tuned.adapter_off():
        plain = tuned.chat("谢谢", temperature=0)[0]
    assert plain != thanks
    with chat(str(run.path), "temperature=0") as terminal:
        assert "loaded 已加载: base 底座 embedded · prefix 前缀" in terminal.prompt()
        shown = asked(terminal, "谢谢吗", BACKSPACE, ENTER)
        assert shown.strip().startswith(f"{thanks}\n")
        assert "tokens 词元 · " in shown
        shown = asked(terminal, "/retry", ENTER)
        assert "again / 重新回答: 谢谢\n" in shown
        assert f"\n{thanks}\n" in shown
        assert "the adapter is off: the base answers" in asked(terminal, "/prefix off", ENTER)
        assert f"\n{plain}\n" in asked(terminal, "/retry", ENTER)
        assert "taken back / 已撤回: 谢谢 (0 turns left" in asked(terminal, "/undo", ENTER)
        assert "did you mean /undo?" in asked(terminal, "/undoo", ENTER)
        assert f"\n{plain}\n" in "\n" + asked(terminal, *[UP] * 6, ENTER).lstrip()
        terminal.type(CTRL_D)
        terminal.until("bye / 再见")
        assert terminal.ended() == 0


def test_ctrl_c_stops_an_answer_lines_may_be_several_and_what_is_typed_early_waits_for_its_turn(tuned: Model) -> None:
    with chat("embedded", "temperature=60", "top_p=1", "max_length=2000", "seed=1", "device=cpu") as terminal:
        terminal.prompt()
        terminal.type("讲个故事" + ENTER)
        terminal.until(SENT)
        terminal.more(20)
        terminal.type(CTRL_C)
        assert terminal.prompt().rstrip().endswith("[stopped / 已停止]")
        assert "taken back / 已撤回: 讲个故事" in asked(terminal, "/undo", ENTER)
        asked(terminal, "/set max_length 100", ENTER)
        asked(terminal, "第一行", ALT_ENTER, "第二行", ENTER)
        assert "已撤回: 第一行 第二行 (" in asked(terminal, "/undo", ENTER)
        terminal.type("\x1b[200~甲\n乙\n丙\x1b[201~" + ENTER)
        terminal.until(SENT)
        terminal.more(5)
        terminal.type("xyzzy")
        assert "xyzzy" not in terminal.prompt()
        asked(terminal, ENTER)
        terminal.type("/un")
        terminal.until("/undo")  # the menu
        assert "已撤回: xyzzy (1 turn left" in asked(terminal, TAB, ENTER)
        assert "已撤回: 甲 乙 丙 (0 turns left" in asked(terminal, "/undo", ENTER)
        asked(terminal, "/set temperature 0", ENTER)
        with tuned.adapter_off():
            assert tuned.chat("你好", temperature=0)[0] in asked(terminal, "你好", ENTER)
        terminal.type("never sent" + CTRL_C)
        terminal.type(CTRL_C)
        terminal.until("Ctrl-C again or Ctrl-D leaves")
        terminal.prompt()
        terminal.type(CTRL_C)
        assert "never sent" not in terminal.until("bye / 再见")
        assert terminal.ended() == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/s", ["/system ", "/set ", "/save "]),
        ("/CL", ["/clear"]),
        ("/prefix ", ["on", "off"]),
        ("/set t", ["temperature", "top_p", "top_k"]),
        ("/nothing a", []),
        ("你好", []),
        ("//", []),
    ],
)
def test_commands_and_their_words_are_completed(typed: str, offered: list[str]) -> None:
    assert [found.text for found in Commands().get_completions(Document(typed), CompleteEvent())] == offered


def test_a_model_whose_name_would_steer_the_terminal_is_not_offered() -> None:
    offered = Commands(("tuned", "t\u2067x", "t\x1b[31m")).get_completions(Document("/model t"), CompleteEvent())
    assert [found.text for found in offered] == ["tuned"]


def test_a_slash_offers_every_command_with_its_sentence() -> None:
    found = list(Commands().get_completions(Document("/"), CompleteEvent()))
    assert [choice.display_meta_text for choice in found] == [command.help.line for command in COMMANDS.values()]


def test_ctrl_c_cancels_the_answer_of_a_service_and_the_chat_goes_on() -> None:
    backend = ScriptedBackend()
    command = [sys.executable, "-m", "imprint", "chat"]
    with serving(backend) as running, Terminal([*command, running.url], {"IMPRINT_API_KEY": KEY}) as terminal:
        assert "model 模型 tuned" in terminal.prompt()
        terminal.type("slow" + ENTER)
        terminal.until(SENT)
        terminal.more(3)
        terminal.type(CTRL_C)
        assert terminal.prompt().rstrip().endswith("[stopped / 已停止]")
        until = time.monotonic() + 10
        while not (left := backend.generations[-1].ended) and time.monotonic() < until:
            time.sleep(0.01)
        assert left
        assert "echo: hi\n" in asked(terminal, "hi", ENTER)
        assert KEY not in terminal.raw
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
