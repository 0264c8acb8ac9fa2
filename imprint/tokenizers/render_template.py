"""The chat template of a folder, rendered in a sandbox."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from imprint.messages import Bilingual, UserError
from imprint.tokenizers.special_tokens import SpecialTokens
from imprint.tokenizers.tokenizer import well_formed

MAX_REASON: Final = 200
"""Characters of a template's own error message that are repeated."""
_DEADLINE: Final[ContextVar[float]] = ContextVar("deadline", default=math.inf)


@contextmanager
def rendering_within(seconds: float) -> Iterator[None]:
    """Inside this block all renderings together take at most so long; those that come later raise UserError."""
    token = _DEADLINE.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def render_chat_template(
    special_tokens: SpecialTokens,
    messages: Sequence[Mapping[str, object]],
    tools: Sequence[Mapping[str, object] | str] = (),
    *,
    answering: bool,
) -> str:
    """Render messages, each with `role` and `content`; `answering` adds the generation prompt.

    Raises UserError for a template that is invalid, is without end, or refuses the messages.
    """
    from imprint.tokenizers.sandbox import render  # Jinja is loaded for a template only

    variables = {
        **special_tokens.names,
        "messages": [dict(message) for message in messages],
        "tools": [tool if isinstance(tool, str) else dict(tool) for tool in tools] or None,
        "documents": None,
        "add_generation_prompt": answering,
    }
    size = sum(len(text) if isinstance(text, str) else len(str(text)) for message in messages for text in message.values())
    size += sum(len(str(tool)) for tool in tools)
    try:
        return render(special_tokens.chat_template or "", variables, size=size, moment=special_tokens.moment, deadline=_DEADLINE.get())
    except Exception as error:  # a template can raise anything
        roles = " ".join(str(message.get("role")) for message in messages)
        reason = well_formed(" ".join(f"{error or type(error).__name__}".split())[:MAX_REASON]).rstrip(".")
        raise UserError(
            Bilingual(
                f"the model's own chat template cannot write this conversation ({roles}): {reason}. Leave out what it does not support, "
                "or set template=plain (model.template in a recipe).",
                "该模型自带的对话模板不支持这段对话：请去掉它不支持的内容，或设 template=plain。",
            )
        ) from error
