"""The chat template of a folder, rendered in the sandbox of transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

from imprint.messages import Bilingual, UserError
from imprint.tokenizers.hf import SpecialTokens


def render_chat_template(
    special_tokens: SpecialTokens, messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]] = (), *, answering: bool
) -> str:
    """Render messages, each with `role` and `content`; `answering` adds the generation prompt.

    Raises UserError for a template that is invalid or refuses the messages.
    """
    from jinja2 import TemplateError
    from transformers.utils import chat_template_utils

    jinja: Any = chat_template_utils.render_jinja_template  # its types do not allow the arguments of chat templates
    try:
        rendered, _ = jinja(
            conversations=[[dict(message) for message in messages]],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=special_tokens.chat_template,
            add_generation_prompt=answering,
            **special_tokens.names,
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = " ".join(str(message.get("role")) for message in messages)
        raise UserError(
            Bilingual(
                f"the model's own chat template cannot write this conversation ({roles}): {error}. Leave out what it does not support, "
                "or set template=plain (model.template in a recipe).",
                "该模型自带的对话模板不支持这段对话：请去掉它不支持的内容，或设 template=plain。",
            )
        ) from error
    return str(rendered[0])
