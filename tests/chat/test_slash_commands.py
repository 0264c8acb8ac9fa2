from pathlib import Path

import pytest

from imprint.chat.conversation import Conversation
from imprint.chat.section import SamplingSection
from imprint.chat.slash_commands import COMMANDS, CommandOutcome, is_command, question, run
from imprint.messages import UserError

START = Conversation(SamplingSection(), has_adapter=True)
SPOKEN = START.ask("你好").answered("你好呀！").ask("你是谁？").answered("我是小印。")


def test_a_slash_begins_a_command_and_two_slashes_a_question() -> None:
    assert is_command("/help")
    assert is_command("／help")
    assert not is_command("你好/help")
    assert not is_command("//etc 是什么")
    assert question("//etc 是什么") == "/etc 是什么"
    assert question("1/2") == "1/2"


@pytest.mark.parametrize("typed", ["/clear", "／clear", "/CLEAR", "/ clear", "/clear "])
def test_a_command_is_known_however_it_is_typed(typed: str) -> None:
    assert run(typed, SPOKEN) == CommandOutcome(START, "2 turns forgotten / 已清空对话")


def test_an_unknown_command_is_reported_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^/hlep is not a command; did you mean /help\? /help lists them\."):
        run("/hlep", START)
    with pytest.raises(UserError, match=r"^/usr/bin is not a command; /help lists them\. A question that begins with / is typed with //"):
        run("/usr/bin", START)
    with pytest.raises(UserError, match=r"^/ is not a command"):
        run("/", START)


def test_retry_asks_again_and_says_where_the_answer_cannot_change() -> None:
    outcome = run("/retry", SPOKEN)
    assert outcome.request == SPOKEN.retry()
    assert outcome.message == "again / 重新回答: 你是谁？"
    assert "at temperature 0 only other settings change an answer" in run("/retry", SPOKEN.with_setting("temperature", "0")).message
    unanswered = START.with_setting("temperature", "0").ask("你好").without_answer
    assert run("/retry", unanswered).message == "again / 重新回答: 你好"


def test_undo_says_what_was_taken_back() -> None:
    outcome = run("/undo", SPOKEN)
    assert outcome.conversation.history == [("你好", "你好呀！")]
    assert outcome.message == "taken back / 已撤回: 你是谁？ (1 turn left / 还剩 1 轮)"
    long = START.ask("长" * 50 + "\n").answered("好")
    assert f": {'长' * 39}… (" in run("/undo", long).message


def test_the_system_text_is_shown_set_in_several_lines_and_taken_away() -> None:
    assert run("/system", START).message.startswith("no system prompt; /system TEXT sets one")
    with_system = run("/system 你是诗人。\n只写诗。", START).conversation
    assert with_system.system == "你是诗人。\n只写诗。"
    assert run("/system", with_system).message == "你是诗人。\n只写诗。"
    assert run("/system off", with_system).conversation.system is None


def test_the_adapter_is_shown_and_switched_by_either_name() -> None:
    assert run("/adapter", START).message == run("/prefix", START).message
    assert run("/adapter off", START) == run("/prefix off", START)
    assert run("/prefix", START).message.startswith("the adapter is on: the tuned model answers")
    off = run("/prefix off", START)
    assert off.message.startswith("the adapter is off: the base answers")
    assert off.conversation.adapter_on is False
    assert run("/prefix", off.conversation).message == off.message
    assert run("/prefix ON", off.conversation).conversation.adapter_on
    with pytest.raises(UserError, match=r'^/adapter: must be on or off, got "maybe"'):
        run("/prefix maybe", START)


def test_settings_are_listed_shown_and_set() -> None:
    assert [line.split()[:2] for line in run("/set", START).message.splitlines()] == [
        ["temperature", "0.95"],
        ["top_p", "0.7"],
        ["top_k", "0"],
        ["repetition_penalty", "1"],
        ["stop", "null"],
        ["seed", "null"],
        ["max_length", "null"],
    ]
    assert run("/set seed", START).message.startswith("seed                null    Seed of sampling")
    assert run('/set stop ["。", "###"]', START).message == "stop is '。' '###' / 已设置"
    assert run("/set stop 。", START).conversation.settings.stop == ("。",)
    for typed in ("/set temperature 0.7", "/set temperature=0.7", "/set temperature = 0.7"):
        outcome = run(typed, START)
        assert outcome.conversation.settings.temperature == 0.7
        assert outcome.message == "temperature is 0.7 / 已设置"
    with pytest.raises(
        UserError, match=r"^/set dtype=: is unknown; allowed here: temperature, top_p, top_k, repetition_penalty, stop, seed, max_length"
    ):
        run("/set dtype", START)


def test_save_says_where_and_how_much_and_may_write_the_same_file_again(tmp_path: Path) -> None:
    outcome = run(f"/save {tmp_path}/say.jsonl", SPOKEN.ask("嗯").answered(""))
    assert outcome.message == f"written to / 已写入 {tmp_path}/say.jsonl (2 turns); 1 turn without an answer left out / 略去 1 轮没有回答的"
    assert run(f"/save {tmp_path}/say.jsonl", outcome.conversation).message.startswith("written to")
    with pytest.raises(UserError, match="is there already"):
        run(f"/save {tmp_path}/say.jsonl", SPOKEN)
    with pytest.raises(UserError, match="is there already"):
        run(f"/save {tmp_path}/say.jsonl", run("/clear", outcome.conversation).conversation.ask("你好").answered("好"))


def test_help_names_every_command_in_both_languages_and_quit_leaves() -> None:
    lines = run("/help", START).message.splitlines()
    assert [line.split()[0] for line in lines[: len(COMMANDS)]] == [f"/{name}" for name in COMMANDS]
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in line) for line in lines[: len(COMMANDS)])
    assert max(map(len, lines)) < 75
    assert run("/quit", START).leave
    assert not run("/help", START).leave
