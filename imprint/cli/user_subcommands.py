"""The subcommands of `imprint user`, as its help lists them."""

from dataclasses import dataclass
from typing import Final

from imprint.messages import Bilingual

DATA: Final = "imprint.serve.section:DataFolderSection"
SECTIONS: Final = "imprint.serve.user_section"
NAME: Final = Bilingual("name of the account", "账号名")
FILE: Final = Bilingual("the file", "文件")


@dataclass(frozen=True)
class UserSubcommand:
    """One subcommand."""

    name: str
    """What is typed."""
    does: Bilingual
    """What it does."""
    metavar: str | None = None
    """What comes after it; None: nothing."""
    subject: Bilingual = NAME
    """What that is."""
    section: str = DATA
    """`MODULE:CLASS` of its knobs."""
    is_list: bool = False
    """Whether it prints a list, which can be JSON."""


USER_SUBCOMMANDS: Final = (
    UserSubcommand(
        "add",
        Bilingual("make an account and print its one-time password", "添加账号并显示一次性密码"),
        "NAME",
        section=f"{SECTIONS}:AddUserSection",
    ),
    UserSubcommand("list", Bilingual("list accounts", "列出账号"), is_list=True),
    UserSubcommand("change", Bilingual("change rights and quotas", "修改权限与额度"), "NAME", section=f"{SECTIONS}:ChangeUserSection"),
    UserSubcommand("disable", Bilingual("let an account in no more; its sessions end", "停用账号，其会话结束"), "NAME"),
    UserSubcommand("enable", Bilingual("let it in again", "重新启用账号"), "NAME"),
    UserSubcommand("delete", Bilingual("delete an account with its chats and keys", "删除账号及其对话和密钥"), "NAME"),
    UserSubcommand("reset-password", Bilingual("print a new one-time password", "重设为一次性密码并显示"), "NAME"),
    UserSubcommand("key", Bilingual("make an API key and print it", "生成 API 密钥并显示"), "NAME", section=f"{SECTIONS}:KeySection"),
    UserSubcommand("keys", Bilingual("list the keys of an account", "列出账号的密钥"), "NAME", is_list=True),
    UserSubcommand(
        "revoke",
        Bilingual("end a key at once", "立即撤销密钥"),
        "KEY",
        Bilingual("its id, or how it begins", "密钥的 ID 或开头"),
    ),
    UserSubcommand("requests", Bilingual("list requests for an account", "列出账号申请"), is_list=True),
    UserSubcommand(
        "approve",
        Bilingual("approve a request and print the one-time password", "批准申请并显示一次性密码"),
        "ID",
        Bilingual("id of the request", "申请的 ID"),
        section=f"{SECTIONS}:ApproveSection",
    ),
    UserSubcommand("decline", Bilingual("decline a request", "拒绝申请"), "ID", Bilingual("id of the request", "申请的 ID")),
    UserSubcommand(
        "guests",
        Bilingual("say where guests are let in", "设置在哪里接待访客"),
        "WHERE",
        Bilingual("loopback, everywhere or off", "loopback、everywhere 或 off"),
    ),
    UserSubcommand("audit", Bilingual("list who did what", "列出操作记录"), is_list=True),
    UserSubcommand("backup", Bilingual("write accounts and chats to one file", "把账号与对话备份到一个文件"), "FILE", FILE),
    UserSubcommand("restore", Bilingual("put a backup in the place of the database", "恢复备份"), "FILE", FILE),
)
