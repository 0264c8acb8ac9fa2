"""The chat template of a folder, rendered in the sandbox of transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

from imprint.errors import UserError
from imprint.tokenizers.hf import SpecialTokens


def render_chat_template(
    manners: SpecialTokens, messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]] = (), *, answering: bool
) -> str:
    """What the chat template makes of messages, each with `role` and `content`; `answering` asks for the next answer.

    Raises UserError for what the template refuses or cannot read.
    """
    from jinja2 import TemplateError
    from transformers.utils import chat_template_utils

    jinja: Any = chat_template_utils.render_jinja_template  # it takes what chat templates ask for, which no type says
    try:
        rendered, _ = jinja(
            conversations=[[dict(message) for message in messages]],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=manners.chat_template,
            add_generation_prompt=answering,
            **manners.names,
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = " ".join(str(message.get("role")) for message in messages)
        raise UserError(
            f"the model's own chat template cannot write this conversation ({roles}): {error}. Leave out what it does not know, "
            "or set template=plain (model.template in a recipe)."
        ) from error
    return str(rendered[0])
