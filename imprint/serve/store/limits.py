"""How much everybody may have, unless an account says otherwise."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of accounts, visitors and chats."""

    user_tokens_a_day: int = 200_000
    """Of a new account: tokens in a day, of prompts and answers together."""
    admin_tokens_a_day: int = 2_000_000
    """The same, of an admin."""
    guest_tokens_a_day: int = 20_000
    """Of each guest's browser session."""
    address_tokens_a_day: int = 100_000
    """Of all guests from one address together."""
    user_concurrency: int = 2
    """Of a new account: answers at the same time."""
    guest_concurrency: int = 1
    """Of each guest's browser session."""
    idle_seconds: float = 12 * 3600
    """After how long without a request a session ends."""
    session_seconds: float = 7 * 86400
    """After how long a session ends in any case."""
    one_time_seconds: float = 7 * 86400
    """How long a one-time password may be used; that of the first admin has no end."""
    sessions_an_account: int = 50
    """Sessions of an account; a further login ends the oldest."""
    keys_an_account: int = 50
    """Keys of an account that have not ended; of those that have, as many of the newest are kept."""
    guests_an_hour: int = 60
    """New guest sessions in an hour from one address; four times as many from a site of IPv6 (/48)."""
    guest_sessions: int = 100_000
    """Sessions of guests from everywhere together."""
    failures_a_minute: int = 5
    """Wrong passwords in a minute for one name from one address."""
    address_failures_a_minute: int = 30
    """Wrong passwords in a minute from one address."""
    network_failures_a_minute: int = 120
    """Wrong passwords in a minute from one network of IPv6 (/48), which has very many addresses."""
    logins_a_minute: int = 60
    """Right passwords in a minute of one account: each of them costs a hash."""
    all_failures_a_minute: int = 300
    """Wrong passwords in a minute from everywhere; with more, each login from a network that had one takes `brake_seconds` longer."""
    brake_seconds: float = 0.25
    """How much longer such a login takes while very many guess; they go one by one."""
    account_requests_a_day: int = 3
    """Requests for an account in a day from one address; four times as many from a site of IPv6 (/48)."""
    open_account_requests: int = 1000
    """Requests for an account that wait for an answer, of all visitors together."""
    chats_an_owner: int = 5000
    """Chats of one owner."""
    guest_chats: int = 50
    """Chats of a guest's browser session."""
    messages_a_chat: int = 2000
    """Messages of one chat."""
    characters_a_message: int = 200_000
    """Characters of a message."""
    characters_a_chat: int = 2_000_000
    """Characters of all messages of a chat, beyond which no question is taken: a chat is opened as a whole."""
    characters_an_owner: int = 50_000_000
    """Characters of all messages of an owner, each with 256 more, beyond which nothing is imported: questions and answers are
    bounded by the tokens of a day."""
    search_seconds: float = 2.0
    """Most seconds of a search."""
    audit_entries: int = 100_000
    """Most entries of the audit log about what somebody did to another's account; the oldest are removed first. Counted apart: failed
    logins, at most a fifth of this number; what people do with their own accounts, two fifths, and a twentieth for each account."""
