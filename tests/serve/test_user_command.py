import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.cli.user_subcommands import USER_SUBCOMMANDS
from imprint.serve.store import Actor, Store
from imprint.serve.user_command import SUBCOMMANDS
from tests.serve.stores import FAST, HOME, PASSWORD, open_store, user

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a subcommand in the folder of the service: exit status, output and what is said beside it."""
    monkeypatch.setattr("imprint.serve.store.store.Hashing", lambda: FAST)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["user", *words, f"data={tmp_path / 'data'}"])
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


@pytest.fixture
def service(said: Said, tmp_path: Path) -> Store:
    """The store of the folder, which serves while commands run."""
    made = open_store(tmp_path / "data")
    made.start_serving()
    return made


def test_every_part_that_is_listed_is_there() -> None:
    assert [subcommand.name for subcommand in USER_SUBCOMMANDS] == list(SUBCOMMANDS)


def test_the_first_account_makes_the_database_and_the_output_is_its_password_alone(said: Said, tmp_path: Path) -> None:
    status, password, beside = said("add", "小明", "models=[base]", "tokens_a_day=500", "contact=ming@example.com")
    assert status == 0
    assert 'one-time password of "小明", good for seven days, to be changed at the first login' in beside
    assert 'one-time password of "admin", to be changed at the first login; nothing shows it again / "admin" 的一次性密码' in beside
    with open_store(tmp_path / "data") as store:
        principal = store.sessions.login("小明", password.removesuffix("\n"), HOME).principal
        assert (principal.models, principal.tokens_a_day, principal.must_change_password) == (frozenset({"base"}), 500, True)
        first = beside.splitlines()[0].rpartition(": ")[2]
        assert store.sessions.login("admin", first, HOME)


def test_a_key_is_the_only_output_and_works_at_once_in_a_service_that_runs(said: Said, service: Store) -> None:
    said("add", "script")
    status, key, beside = said("key", "script", "name=notebook", "models=[base]", "days=30")
    assert (status, beside) == (0, "")
    principal = service.keys.of(key.removesuffix("\n"))
    assert principal is not None
    assert (principal.name, principal.models) == ("script", frozenset({"base"}))
    _, listed, _ = said("keys", "script")
    assert key.strip() not in listed
    assert f"{key[:9]}...  notebook" in listed
    assert said("revoke", listed.splitlines()[1].split()[0])[0] == 0
    assert service.keys.of(key.strip()) is None


def test_a_service_that_runs_sees_at_once_what_is_changed(said: Said, service: Store) -> None:
    principal = user(service)
    assert said("change", "小明", "tokens_a_day=9", "concurrency=3", "models=[a]")[0] == 0
    account = service.accounts.named("小明")
    assert (account.tokens_a_day, account.concurrency, account.models, account.role) == (9, 3, frozenset({"a"}), "user")
    said("change", "小明", "models=all")
    assert service.accounts.named("小明").models is None
    assert service.is_valid(principal)
    assert said("disable", "小明")[1].startswith('"小明" is disabled; its sessions have ended / 已停用')
    assert not service.is_valid(principal)
    said("enable", "小明")
    assert service.sessions.login("小明", PASSWORD, HOME)
    _, password, _ = said("reset-password", "小明")
    assert service.sessions.login("小明", password.strip(), HOME).principal.must_change_password
    said("delete", "小明")
    assert [account.name for account in service.accounts.list()] == ["admin", "guest"]
    actions = [entry.action for entry in service.audit.list() if entry.actor == "(command line)"]
    assert actions[:3] == ["account_deleted", "account_disabled", "password_reset"]


def test_accounts_are_listed_for_people_and_for_scripts(said: Said, service: Store) -> None:
    user(service, models=frozenset({"b", "a"}))
    service.requests.ask("小红", "x", "", HOME)
    _, listed, beside = said("list")
    assert listed.splitlines()[0].split()[:2] == ["NAME", "ROLE"]
    assert "admin  admin  one-time password" in listed
    assert "a,b" in listed
    assert "1 requests for an account wait" in beside
    _, lines, _ = said("list", "--json")
    accounts = [json.loads(line) for line in lines.splitlines()]
    assert [(account["name"], account["models"]) for account in accounts] == [("admin", None), ("guest", None), ("小明", ["a", "b"])]


def test_requests_are_listed_harmlessly_approved_and_declined(said: Said, service: Store) -> None:
    service.requests.ask("小红", "\x1b[2Jred@example.com", "give\u202eme\x07", HOME)
    service.requests.ask("小蓝", "y", "", HOME)
    _, listed, _ = said("requests")
    assert "\\x1b[2Jred@example.com" in listed
    assert not {"\x1b", "\x07", "\u202e"} & set(listed)
    first, second = (line.split()[0] for line in listed.splitlines()[1:])
    _, password, _ = said("approve", first, "name=red", "tokens_a_day=5")
    assert service.sessions.login("red", password.strip(), HOME).principal.tokens_a_day == 5
    assert said("decline", second)[0] == 0
    assert service.requests.list() == ()


def test_guests_and_the_audit_log(said: Said, service: Store) -> None:
    assert said("guests", "everywhere")[0] == 0
    assert service.settings.guests() == "everywhere"
    status, _, beside = said("guests", "public")
    assert status == 2
    assert "guests: must be one of loopback, everywhere, off" in beside
    _, listed, _ = said("audit")
    assert listed.splitlines()[-1].split()[2:] == ["(command", "line)", "settings_changed", "guests=everywhere"]
    _, lines, _ = said("audit", "--json")
    assert json.loads(lines.splitlines()[-1])["action"] == "settings_changed"


def test_a_backup_is_written_while_the_service_runs_and_restored_when_it_does_not(said: Said, service: Store, tmp_path: Path) -> None:
    principal = user(service)
    file = str(tmp_path / "backup.db")
    assert said("backup", file)[0] == 0
    status, _, beside = said("restore", file)
    assert status == 2
    assert "another service uses this folder" in beside
    service.accounts.delete(principal.account_id, Actor("admin"))
    service.close()
    status, output, _ = said("restore", file)
    assert status == 0
    assert "the old one is kept as" in output
    with open_store(tmp_path / "data") as store:
        assert store.sessions.login("小明", PASSWORD, HOME)
        assert store.audit.list()[1].action == "restore"


@pytest.mark.parametrize("subcommand", ["list", "disable", "key", "backup", "audit"])
def test_a_mistyped_folder_is_told_and_stays_as_it_is(said: Said, tmp_path: Path, subcommand: str) -> None:
    words = [subcommand] if subcommand in ("list", "audit") else [subcommand, "x"]
    status, output, beside = said(*words)
    assert (status, output) == (2, "")
    assert f"data={tmp_path / 'data'}: there is no service.db in it" in beside
    assert not (tmp_path / "data").exists()


def test_where_a_restore_was_stopped_a_command_says_how_to_go_on(said: Said, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "before-restore.db").touch()
    status, _, beside = said("list")
    assert (status, "a restore was stopped before its end" in beside) == (2, True)


def test_wrong_words_are_refused_in_a_sentence(said: Said, service: Store) -> None:
    for words, message in (
        (("add", "a b"), "name: must have 1 to 48 letters"),
        (("add", "admin"), 'there is an account "admin" already'),
        (("add", "x", "role=guest"), "override role=guest"),
        (("disable", "nobody"), 'there is no account "nobody". `imprint user list` shows all.'),
        (("disable", "admin"), '"admin" is the only admin'),
        (("key", "guest"), "the guest account stays what it is"),
        (("revoke", "sk-nothing"), "0 keys are named 'sk-nothin'"),
        (("approve", "x"), "there is no such request"),
    ):
        status, output, beside = said(*words)
        assert (status, output) == (2, "")
        assert message in beside
