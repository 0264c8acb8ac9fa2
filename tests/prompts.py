"""The ids of a question, as every command encodes it."""

from imprint.data.encode import encode_messages
from imprint.templates import Template, Turns, make_messages


def encode_prompt(
    template: Template,
    query: str,
    history: Turns | None = None,
    *,
    max_source_length: int,
    system: str | None = None,
    source_prefix: str = "",
) -> list[int]:
    """Prompt ids of a question with its history."""
    messages = make_messages(query, history, system)
    return encode_messages(template, messages, max_source_length=max_source_length, source_prefix=source_prefix).ids
