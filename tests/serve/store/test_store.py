import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.serve.store import COMMAND_LINE, Store, StoreError
from imprint.serve.store.store import hold_folder
from tests.serve.stores import HOME, Clock, open_store, user

WRITER = """\
import sys
from pathlib import Path
from tests.serve.stores import begin_answer, open_store, user

store = open_store(Path(sys.argv[1]))
store.start_serving()
me = store.keys.of(sys.argv[2])
chat = store.chats.create(me)
while True:
    answer = begin_answer(store, me, chat.id)
    store.chats.write(me, answer, "half")
    print(f"half {answer}", flush=True)
    store.chats.finish(me, answer, "whole", state="done")
    print(f"whole {answer}", flush=True)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.long)])
def test_no_acknowledged_row_is_lost_when_the_service_is_killed_while_it_writes(tmp_path: Path, kills: int) -> None:
    data = tmp_path / "data"
    with open_store(data) as store:
        me = user(store)
        key = store.keys.create(me.account_id, actor=COMMAND_LINE).key
    acknowledged: dict[str, str] = {}
    for kill in range(kills):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(data), key], stdout=subprocess.PIPE, encoding="utf-8")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20 + kill % 7)]
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
        acknowledged |= {line.split()[1]: line.split()[0] for line in lines if len(line.split()) == 2}
    with closing(sqlite3.connect(data / "service.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with open_store(data) as store:
        store.start_serving()
        kept = {message.id: message for chat_id in store.chats.ids(me) for message in store.chats.messages(me, chat_id)}
    assert len(acknowledged) > 10 * kills / 2
    assert all(kept[one].text == "whole" and kept[one].state == "done" for one, state in acknowledged.items() if state == "whole")
    half = [kept[one] for one, state in acknowledged.items() if state == "half"]
    assert all((message.text, message.state) in (("half", "interrupted"), ("whole", "done")) for message in half)


def test_a_folder_has_one_service_and_any_number_of_commands(tmp_path: Path) -> None:
    with open_store(tmp_path) as service:
        service.start_serving()
        with open_store(tmp_path) as command:
            command.accounts.create("小明", actor=COMMAND_LINE)
            with pytest.raises(UserError, match="another service uses this folder"):
                command.start_serving()
        assert service.accounts.named("小明")
    with open_store(tmp_path) as next_service:
        next_service.start_serving()


def test_the_lock_of_a_folder_ends_with_its_holder(tmp_path: Path) -> None:
    handle = hold_folder(tmp_path)
    with pytest.raises(UserError, match="another service uses this folder"):
        hold_folder(tmp_path)
    os.close(handle)
    os.close(hold_folder(tmp_path))


def test_a_session_that_another_process_ends_is_closed_within_a_second(tmp_path: Path) -> None:
    with open_store(tmp_path) as service:
        service.start_serving()
        principal, before = user(service), service.revocations()
        program = (
            "import sys; from pathlib import Path; from imprint.serve.store import COMMAND_LINE\n"
            "from tests.serve.stores import open_store\n"
            "store = open_store(Path(sys.argv[1])); store.accounts.disable(store.accounts.named('小明').id, COMMAND_LINE); print('done')"
        )
        assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, check=True).stdout == b"done\n"
        began = time.perf_counter()
        assert service.revocations() > before
        assert not service.is_valid(principal)
        assert time.perf_counter() - began < 5


def test_a_store_without_its_database_says_so(store: Store) -> None:
    assert store.revocations() >= 0
    (store.folder / "service.db").unlink()
    with pytest.raises(StoreError, match="deleted or replaced"):
        store.revocations()


def test_a_principal_without_a_session_and_without_a_key_is_nobody(store: Store) -> None:
    from dataclasses import replace

    assert not store.is_valid(replace(store.sessions.guest(HOME).principal, session_id=None))


def test_what_has_expired_goes_beside_a_session_that_cannot_be_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with open_store(tmp_path, now=clock) as store:
        tokens = [store.sessions.guest(HOME).token for _ in range(3)]
        with closing(sqlite3.connect(tmp_path / "service.db")) as connection, connection:
            connection.execute("CREATE TRIGGER t BEFORE DELETE ON sessions WHEN old.id = 2 BEGIN SELECT raise(ABORT, 'no'); END")
        clock.now += 13 * 3600
        store.start_serving()
        assert "something that has expired cannot be removed" in caplog.text
        with closing(sqlite3.connect(tmp_path / "service.db")) as connection:
            assert connection.execute("SELECT id FROM sessions").fetchall() == [(2,)]
        assert store.sessions.of(tokens[1]) is None


def test_the_seconds_of_each_write_are_told(store: Store) -> None:
    found: list[float] = []
    store.observe_writes(found.append)
    me = user(store)
    written = len(found)
    store.chats.list(me)
    assert written >= 1
    assert len(found) == written
    assert all(0 <= seconds < 60 for seconds in found)
