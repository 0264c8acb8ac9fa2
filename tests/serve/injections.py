"""Texts that would change a query if one were put together from texts."""

from itertools import product
from typing import Final

_ENDINGS: Final = ("", " --", " #", " /*", ";", "\\", "\x00"[:0], "%00", ")", "))", " AND '1'='1")
_BREAKS: Final = ("'", '"', "`", "')", '")', "'))", "\\'", "%27", "’", "ʼ", "＇")
_CLAUSES: Final = (
    " OR 1=1",
    " OR '1'='1'",
    " UNION SELECT password_hash FROM accounts",
    " UNION ALL SELECT NULL,NULL,NULL",
    "; DROP TABLE accounts",
    "; UPDATE accounts SET role='admin'",
    " AND (SELECT count(*) FROM accounts) > 0",
    " AND randomblob(100000000) IS NOT NULL",
    "; ATTACH DATABASE '/nowhere/x.db' AS x",
    "; SELECT load_extension('x')",
)
_OTHERS: Final = (
    *("1 OR 1=1", "1; DROP TABLE chats", "admin'--", "' OR ''='", "%", "_", "%%", "\\%", "[a-z]", "*", "?", ":name", "$1", "@x", "{0}"),
    *("NULL", "true", "0x27", "char(39)", "x' COLLATE NOCASE", "1e309", "-1", "9223372036854775808", "../../etc/passwd", "${7*7}"),
    *("updated_at", "updated_at DESC", "id; --", "name, (SELECT 1)", "1 LIMIT 1", "randomblob(1)"),
)
INJECTIONS: Final = tuple(dict.fromkeys([*_OTHERS, *("".join(parts) for parts in product(_BREAKS, _CLAUSES, _ENDINGS))]))[:600]
