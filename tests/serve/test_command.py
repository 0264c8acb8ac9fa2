import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import openai
import pytest

from imprint.config import read_overrides
from imprint.messages import UserError
from imprint.serve.command import bind_or_say, check_source, refuse_unsafe, say_first_password, serve_command, web_settings
from imprint.serve.section import ServeSection
from imprint.serve.store import COMMAND_LINE, Store
from imprint.serve.upstream.backend import KEY_VARIABLE
from imprint.serve.web.settings import WebSettings
from tests.serve.held_streams import hold_streams
from tests.serve.stores import HOME, PASSWORD, open_store
from tests.serve.tiny_runs import tiny_run
from tests.serve.upstream.fakes import ANSWER, FakeServer, running
from tests.serve.upstream.misbehaviour import FAULTS

ROOT = Path(__file__).parents[2]


def test_a_run_is_served_from_the_command_line_until_the_signal(tmp_path: Path) -> None:
    run, data = tiny_run(tmp_path / "mine"), tmp_path / "data"
    words = [sys.executable, "-m", "imprint", "serve", str(run), "port=0", f"data={data}", "legacy=true", "device=cpu", "grace=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as started:
        try:
            assert started.stdout is not None
            first, ready = started.stdout.readline(), started.stdout.readline()
            assert first.startswith('account "admin", one-time password: ')
            assert "models: base, mine" in ready
            url = ready.split()[1].rstrip("/")
            assert httpx2.get(f"{url}/health/ready").status_code == 200
            with Store.open(data) as store:  # as `imprint user` does while the service runs
                account = store.accounts.create("ada", actor=COMMAND_LINE).account
                key = store.keys.create(account.id, actor=COMMAND_LINE).key
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                answers = {
                    name: client.chat.completions.create(
                        model=name, messages=[{"role": "user", "content": "你好"}], temperature=0, max_tokens=8
                    )
                    for name in ("base", "mine")
                }
            assert all(answer.choices[0].message.content for answer in answers.values())
            old = httpx2.post(f"{url}/", json={"prompt": "你好", "history": [], "temperature": 0, "max_length": 40}, timeout=30)
            assert old.json()["status"] == 200
            started.send_signal(signal.SIGTERM)
            assert started.wait(10) == 0
            assert started.stderr is not None
            assert key not in started.stderr.read()
        finally:
            started.kill()


def test_a_public_service_waits_for_the_first_password_to_be_changed(tmp_path: Path) -> None:
    with open_store(tmp_path, now=time.time) as store:
        refuse_unsafe(store, WebSettings())
        for settings in (WebSettings("0.0.0.0"), WebSettings(proxies=("127.0.0.1",)), WebSettings(hosts=("chat.example",))):
            with pytest.raises(UserError, match="password of admin was not changed"):
                refuse_unsafe(store, settings)
        assert store.first_password is not None
        principal = store.sessions.login("admin", store.first_password, HOME).principal
        store.sessions.change_password(principal, store.first_password, PASSWORD, HOME)
        refuse_unsafe(store, WebSettings("0.0.0.0"))


def test_the_first_password_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(tmp_path) as store:
        say_first_password(store)
        assert str(store.first_password) in capsys.readouterr().out
    with open_store(tmp_path) as store:
        say_first_password(store)
        assert capsys.readouterr().out == ""


def test_an_address_that_cannot_be_listened_on_is_said() -> None:
    with bind_or_say("127.0.0.1", 0) as taken, pytest.raises(UserError, match="cannot be listened on"):
        bind_or_say("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"host=203\.0\.113\.1"):
        bind_or_say("203.0.113.1", 0)


def test_a_wrong_path_leaves_no_database_behind_whose_password_nobody_saw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        serve_command([str(tmp_path / "none")], ServeSection(port=0, data=str(tmp_path / "data")))
    assert not (tmp_path / "data").exists()


def test_a_command_without_a_model_says_what_to_name() -> None:
    with pytest.raises(UserError, match="imprint serve runs/demo"):
        serve_command([], ServeSection())
    assert web_settings(ServeSection(legacy=True)).legacy


def test_streams_side_by_side_get_the_answers_that_each_gets_alone_and_leave_nothing(tmp_path: Path) -> None:
    hold_streams(tmp_path, 8, 0)
    assert tmp_path.exists()


@pytest.mark.long
def test_64_streams_for_a_minute_get_the_answers_that_each_gets_alone_and_leave_nothing(tmp_path: Path) -> None:
    hold_streams(tmp_path, 64, 60)
    assert tmp_path.exists()


def test_a_service_has_models_of_its_own_or_those_of_servers() -> None:
    servers = read_overrides(["upstream=[http://127.0.0.1:1]", "slots=2", "max_length=50"], ServeSection)
    check_source([], servers)
    check_source(["runs/a"], ServeSection(device="cpu"))
    with pytest.raises(UserError, match="runs/a: a service has models of its own or those of upstream="):
        check_source(["runs/a"], servers)
    with pytest.raises(UserError, match="device, kv_tokens: no effect with upstream="):
        check_source([], read_overrides(["upstream=[http://127.0.0.1:1]", "kv_tokens=99", "device=cpu"], ServeSection))
    with pytest.raises(UserError, match="upstream_api: no effect without upstream="):
        check_source(["runs/a"], read_overrides(["upstream_api=openai"], ServeSection))


async def serve_in_front_of(fake: FakeServer, folder: Path) -> list[str]:
    """What a service in front of this server says to a program, until the signal."""
    words = ["-m", "imprint", "serve", f"upstream=[{fake.url}]", "port=0", f"data={folder}", "grace=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), KEY_VARIABLE: "sk-of-upstream"}
    started = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert started.stdout is not None
        lines = [(await asyncio.wait_for(started.stdout.readline(), 20)).decode() for _ in range(2)]
        url = lines[1].split()[1].rstrip("/")
        with Store.open(folder) as store:
            account = store.accounts.create("ada", actor=COMMAND_LINE).account
            key = store.keys.create(account.id, actor=COMMAND_LINE).key
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            answer = await client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "你好"}])
            fake.answer = FAULTS["error in the middle"][0]
            with pytest.raises(openai.InternalServerError, match="failed while it wrote this answer"):
                await client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "你好"}])
            fake.answer = FAULTS["context in the middle"][0]
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "你好"}])
        started.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(started.communicate(), 10)
        assert started.returncode == 0
        assert answer.usage is not None
        return [lines[1], str(answer.choices[0].message.content), str(answer.usage.total_tokens), str(caught.value.code), errors.decode()]
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


def test_servers_stand_behind_the_same_accounts(tmp_path: Path) -> None:
    async def run() -> list[str]:
        fake = FakeServer()
        async with running(fake):
            said = await serve_in_front_of(fake, tmp_path)
        assert {one.headers["authorization"] for one in fake.asked} == {"Bearer sk-of-upstream"}
        return said

    ready, text, tokens, code, log = asyncio.run(run())
    assert "models: demo" in ready
    assert (text, tokens, code) == ("".join(ANSWER), "10", "context_length_exceeded")
    assert "sk-of-upstream" not in log
    assert '"fault": "failed"' in log
