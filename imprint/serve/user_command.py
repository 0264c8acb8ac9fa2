"""`imprint user ...`: accounts, keys, requests and backups of a service's folder, also while the service runs."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from imprint.config import read_overrides
from imprint.messages import Bilingual, UserError
from imprint.serve.section import DataFolderSection
from imprint.serve.store import COMMAND_LINE, Store, restore
from imprint.serve.store.accounts import Account
from imprint.serve.store.database import FILE_NAME, refuse_half_restored
from imprint.serve.user_section import AddUserSection, ApproveSection, ChangeUserSection, KeySection
from imprint.terminal import say, table_lines

DAY: Final = 86_400


@dataclass(frozen=True)
class UserArguments:
    """What was typed after the subcommand."""

    subject: str
    """A name, an id or a file; empty for subcommands that take none."""
    overrides: Sequence[str]
    """Knobs."""
    as_json: bool
    """Whether a list is printed as lines of JSON."""


def user_command(subcommand: str, arguments: UserArguments) -> None:
    """Run a subcommand, named as in `SUBCOMMANDS`. Raises UserError."""
    SUBCOMMANDS[subcommand](arguments)


def add_user(arguments: UserArguments) -> None:
    """Make an account and print its one-time password, alone on the output. A folder without a database gets one."""
    section = read_overrides(arguments.overrides, AddUserSection)
    with Store.open(Path(section.data)) as store:
        if store.first_password is not None:
            _say_password("admin", store.first_password, to_stdout=False)
        created = store.accounts.create(
            arguments.subject,
            actor=COMMAND_LINE,
            role=section.role,
            models=_models(section.models),
            tokens_a_day=section.tokens_a_day,
            concurrency=section.concurrency,
            contact=section.contact,
        )
    _say_password(created.account.name, created.password)


def list_users(arguments: UserArguments) -> None:
    """Print all accounts."""
    section = read_overrides(arguments.overrides, DataFolderSection)
    with _opened(section) as store:
        accounts = store.accounts.list()
        num_open = len(store.requests.list())
    rows = [
        (
            account.name,
            account.role,
            "disabled" if account.disabled_at is not None else "one-time password" if account.must_change_password else "",
            "all" if account.models is None else ",".join(sorted(account.models)) or "none",
            f"{account.used_today:,} / {account.tokens_a_day:,}",
            str(account.concurrency),
            account.contact,
        )
        for account in accounts
    ]
    titles = ("NAME", "ROLE", "STATE", "MODELS", "TOKENS TODAY", "AT ONCE", "CONTACT")
    _say_table(titles, rows, [asdict(account) for account in accounts], as_json=arguments.as_json)
    if num_open:
        say(
            Bilingual(
                f"{num_open} requests for an account wait: `imprint user requests`",
                f"有 {num_open} 个账号申请待处理：`imprint user requests`",
            ).line,
            stream=sys.stderr,
        )


def change_user(arguments: UserArguments) -> None:
    """Change what an account may do."""
    section = read_overrides(arguments.overrides, ChangeUserSection)
    with _opened(section) as store:
        account = store.accounts.named(arguments.subject)
        store.accounts.change(
            account.id,
            actor=COMMAND_LINE,
            role=section.role,
            tokens_a_day=section.tokens_a_day,
            concurrency=section.concurrency,
            models="all" if section.models == "all" else None if section.models is None else frozenset(section.models),
        )
    _say_done(f'"{account.name}" was changed', f'已修改 "{account.name}"')


def disable_user(arguments: UserArguments) -> None:
    """Disable an account: its sessions end, its keys rest."""
    with _account(arguments) as (store, account):
        store.accounts.disable(account.id, COMMAND_LINE)
    _say_done(f'"{account.name}" is disabled; its sessions have ended', f'已停用 "{account.name}"，其会话已结束')


def enable_user(arguments: UserArguments) -> None:
    """Enable a disabled account."""
    with _account(arguments) as (store, account):
        store.accounts.enable(account.id, COMMAND_LINE)
    _say_done(f'"{account.name}" is enabled', f'已启用 "{account.name}"')


def delete_user(arguments: UserArguments) -> None:
    """Delete an account with its chats and keys."""
    with _account(arguments) as (store, account):
        store.accounts.delete(account.id, COMMAND_LINE)
    _say_done(f'"{account.name}" is deleted, with its chats and keys', f'已删除 "{account.name}" 及其对话和密钥')


def reset_password(arguments: UserArguments) -> None:
    """Give an account a one-time password and print it, alone on the output."""
    with _account(arguments) as (store, account):
        password = store.accounts.reset_password(account.id, COMMAND_LINE)
    _say_password(account.name, password)


def add_key(arguments: UserArguments) -> None:
    """Make a key of an account and print it, alone on the output."""
    section = read_overrides(arguments.overrides, KeySection)
    with _opened(section) as store:
        created = store.keys.create(
            store.accounts.named(arguments.subject).id,
            actor=COMMAND_LINE,
            name=section.name,
            models=_models(section.models),
            expires_at=None if section.days is None else datetime.now(UTC).timestamp() + section.days * DAY,
        )
    say(created.key)


def list_keys(arguments: UserArguments) -> None:
    """Print the keys of an account, as far as they are known."""
    section = read_overrides(arguments.overrides, DataFolderSection)
    with _opened(section) as store:
        keys = store.keys.list(store.accounts.named(arguments.subject).id)
    now = datetime.now(UTC).timestamp()
    rows = [
        (
            key.id,
            f"{key.prefix}...",
            key.name,
            "revoked" if key.revoked_at is not None else "expired" if key.expires_at is not None and key.expires_at <= now else "",
            "" if key.models is None else ",".join(sorted(key.models)),
            _day(key.expires_at),
            _day(key.used_at),
        )
        for key in keys
    ]
    titles = ("ID", "KEY", "NAME", "STATE", "MODELS", "UNTIL", "LAST USED")
    _say_table(titles, rows, [asdict(key) for key in keys], as_json=arguments.as_json)


def revoke_key(arguments: UserArguments) -> None:
    """End a key, by its id or by how it begins."""
    with _opened(read_overrides(arguments.overrides, DataFolderSection)) as store:
        found = [
            (account, key)
            for account in store.accounts.list()
            for key in store.keys.list(account.id)
            if key.id == arguments.subject or (key.revoked_at is None and arguments.subject.startswith(key.prefix))
        ]
        if len(found) != 1:
            raise UserError(
                Bilingual(
                    f"{len(found)} keys are named {arguments.subject[:9]!r}. Give the id that `imprint user keys NAME` shows.",
                    f"有 {len(found)} 个密钥叫 {arguments.subject[:9]!r}。请给出 `imprint user keys NAME` 显示的 ID。",
                )
            )
        account, key = found[0]
        store.keys.revoke(account.id, key.id, COMMAND_LINE)
    _say_done(f'key {key.prefix}... of "{account.name}" is revoked', f'已撤销 "{account.name}" 的密钥 {key.prefix}...')


def list_requests(arguments: UserArguments) -> None:
    """Print the requests for an account that wait for an answer."""
    section = read_overrides(arguments.overrides, DataFolderSection)
    with _opened(section) as store:
        requests = store.requests.list()
    rows = [(one.id, _day(one.asked_at), one.name, one.contact, one.address, one.reason) for one in requests]
    titles = ("ID", "ASKED", "NAME", "CONTACT", "ADDRESS", "REASON")
    _say_table(titles, rows, [asdict(one) for one in requests], as_json=arguments.as_json)


def approve_request(arguments: UserArguments) -> None:
    """Make the account that a request asks for, and print its one-time password, alone on the output."""
    section = read_overrides(arguments.overrides, ApproveSection)
    with _opened(section) as store:
        created = store.requests.approve(
            arguments.subject,
            COMMAND_LINE,
            name=section.name,
            models=_models(section.models),
            tokens_a_day=section.tokens_a_day,
            concurrency=section.concurrency,
        )
    _say_password(created.account.name, created.password)


def decline_request(arguments: UserArguments) -> None:
    """Decline a request."""
    with _opened(read_overrides(arguments.overrides, DataFolderSection)) as store:
        store.requests.decline(arguments.subject, COMMAND_LINE)
    _say_done("the request is declined", "已拒绝该申请")


def set_guests(arguments: UserArguments) -> None:
    """Say where guests are let in."""
    with _opened(read_overrides(arguments.overrides, DataFolderSection)) as store:
        store.settings.set_guests(arguments.subject, COMMAND_LINE)
    _say_done(f"guests: {arguments.subject}", f"访客：{arguments.subject}")


def show_audit(arguments: UserArguments) -> None:
    """Print the last entries of the audit log, oldest first."""
    section = read_overrides(arguments.overrides, DataFolderSection)
    with _opened(section) as store:
        entries = store.audit.list()[::-1]
    rows = [(_second(one.at), one.actor, one.address or "", one.action, one.subject, one.detail) for one in entries]
    titles = ("WHEN (UTC)", "WHO", "FROM", "WHAT", "WHOM", "DETAIL")
    _say_table(titles, rows, [asdict(one) for one in entries], as_json=arguments.as_json)


def back_up(arguments: UserArguments) -> None:
    """Write everything to one file."""
    file = Path(arguments.subject)
    with _opened(read_overrides(arguments.overrides, DataFolderSection)) as store:
        store.backup(file)
        store.audit.add("backup", COMMAND_LINE, detail=file.name)
    _say_done(f"{file}: written; it holds all accounts and chats, so keep it safe", f"{file}：已写好；其中有全部账号和对话，请妥善保管")


def put_back(arguments: UserArguments) -> None:
    """Put a backup in the place of the database."""
    section = read_overrides(arguments.overrides, DataFolderSection)
    file = Path(arguments.subject)
    kept = restore(file, Path(section.data))
    with _opened(section) as store:
        store.audit.add("restore", COMMAND_LINE, detail=file.name)
    old = Bilingual("", "") if kept is None else Bilingual(f"; the old one is kept as {kept}", f"；原数据库保留为 {kept}")
    _say_done(
        f"{section.data}: restored{old.english}. All sessions have ended; keys and passwords are those of the backup, so revoke again what "
        "was revoked since",
        f"{section.data}：已恢复{old.chinese}。全部会话已结束；密钥和密码以备份为准，备份之后撤销过的请再撤销一次",
    )


SUBCOMMANDS: Final[Mapping[str, Callable[[UserArguments], None]]] = MappingProxyType(
    {
        "add": add_user,
        "list": list_users,
        "change": change_user,
        "disable": disable_user,
        "enable": enable_user,
        "delete": delete_user,
        "reset-password": reset_password,
        "key": add_key,
        "keys": list_keys,
        "revoke": revoke_key,
        "requests": list_requests,
        "approve": approve_request,
        "decline": decline_request,
        "guests": set_guests,
        "audit": show_audit,
        "backup": back_up,
        "restore": put_back,
    }
)
"""Subcommand -> what it does."""


@contextmanager
def _account(arguments: UserArguments) -> Iterator[tuple[Store, Account]]:
    """The store of the folder, and the account that was named."""
    with _opened(read_overrides(arguments.overrides, DataFolderSection)) as store:
        yield store, store.accounts.named(arguments.subject)


@contextmanager
def _opened(section: DataFolderSection) -> Iterator[Store]:
    """The store of a folder that has one: a mistyped folder is told, not filled."""
    refuse_half_restored(Path(section.data))
    if not (Path(section.data, FILE_NAME)).exists():
        raise UserError(
            Bilingual(
                f"data={section.data}: there is no {FILE_NAME} in it. Give the folder of the service: data=FOLDER.",
                f"data={section.data}：其中没有 {FILE_NAME}。请给出服务的目录：data=FOLDER。",
            )
        )
    with Store.open(Path(section.data)) as store:
        yield store


def _say_password(name: str, password: str, *, to_stdout: bool = True) -> None:
    """Print a one-time password to stdout; if not `to_stdout`, to stderr, as that of the first admin."""
    days = Bilingual(", good for seven days", "，七天内有效") if to_stdout else Bilingual("", "")
    english = f'one-time password of "{name}"{days.english}, to be changed at the first login; nothing shows it again'
    chinese = f'"{name}" 的一次性密码{days.chinese}，首次登录时须修改，之后不再显示'
    say(Bilingual(english, chinese).line + ("" if to_stdout else f": {password}"), stream=sys.stderr)
    if to_stdout:
        say(password)


def _say_done(english: str, chinese: str) -> None:
    say(Bilingual(english, chinese).line)


def _say_table(titles: Sequence[str], rows: Sequence[Sequence[str]], values: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows below their titles, or values as lines of JSON, in which nothing can steer a terminal."""
    if as_json:
        for value in values:
            say(json.dumps(value, default=sorted))
    else:
        say(*table_lines([titles, *rows]))


def _models(models: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if models is None else frozenset(models)


def _day(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _second(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
