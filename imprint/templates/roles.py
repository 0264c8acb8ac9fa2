"""The template of ChatGLM3-6B and GLM-4-9B: for each message a role id, a line with the name of a called tool, and the text.

Sources: `build_single_message`, `build_chat_input` and `apply_chat_template` in tokenization_chatglm.py, `chat` and `process_response` in
modeling_chatglm.py, and the labels of their fine-tuning scripts, THUDM/chatglm3-6b and THUDM/glm-4-9b.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from imprint.templates.chatglm import fill_date
from imprint.templates.chatglm2 import without_partial_date_or_bracket
from imprint.templates.conversation import Message, Segment
from imprint.templates.history import as_messages
from imprint.tokenizers import ChatGLM2Tokenizer, GLM4Tokenizer, refuse_more_tokens

CHATGLM3_TOOLS: Final = "Answer the following questions as best as you can. You have access to the following tools:"
"""ChatGLM3's text before its tools if there is no system prompt; part of its format."""
GLM4_TOOLS: Final = (
    "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。"
    "\n\n# 可用工具"
)
"""GLM-4's text before its tools; part of its format."""
GLM4_CALL: Final = "在调用上述函数时，请使用 Json 格式表示调用的参数。"
"""GLM-4's text after each tool; part of its format."""


@dataclass(frozen=True)
class RoleTemplate:
    """`[gMASK] sop`, then for each message its role, the line of the tool, and the text; finally `<|assistant|>`."""

    tokenizer: ChatGLM2Tokenizer | GLM4Tokenizer
    """The tokenizer of its ids."""

    @property
    def name(self) -> Literal["chatglm3", "glm4"]:
        """Its name in a recipe."""
        return "glm4" if isinstance(self.tokenizer, GLM4Tokenizer) else "chatglm3"

    @property
    def supports_tools(self) -> bool:
        """Supported."""
        return True

    @property
    def describes_tools(self) -> bool:
        """See Template."""
        return True

    @property
    def end_id(self) -> int:
        """The end of a row in the fine-tuning script: `</s>` in ChatGLM3, `<|user|>` in GLM-4."""
        return self.tokenizer.controls["<|user|>" if self.name == "glm4" else "</s>"]

    @property
    def stop_ids(self) -> frozenset[int]:
        """EOS, and the roles of user and observation."""
        eos = "<|endoftext|>" if self.name == "glm4" else "</s>"
        return frozenset(self.tokenizer.controls[name] for name in (eos, "<|user|>", "<|observation|>"))

    @property
    def start_ids(self) -> tuple[int, int]:
        """`[gMASK] <sop>`; ChatGLM3 calls the second one `sop`."""
        return self.tokenizer.controls["[gMASK]"], self.tokenizer.controls["<sop>" if self.name == "glm4" else "sop"]

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """All messages, then `<|assistant|>`; `source_prefix` is put before the last text."""
        segments, count = [Segment(self.start_ids, fixed=True)], 0
        for index, message in enumerate(as_messages(messages), start=1):
            for text in self._texts(message):
                added = self._message_segments(message, (source_prefix if index == len(messages) else "") + text)
                segments += added
                count += sum(len(segment.ids) for segment in added)
                refuse_more_tokens(count)
        return (*segments, Segment((self._role("assistant"),), fixed=True))

    def answer(self, _messages: Sequence[Message], text: str, tool: str = "", rest: Sequence[Message] = (), /) -> list[int]:
        """The line of the tool, empty without a call, and the text; `<|assistant|>` belongs to the prompt, those of `rest` do not."""
        first = [*self.tokenizer.encode(f"{tool}\n"), *self.tokenizer.encode(self._format_call(text) if tool else text)]
        segments = [part for message in rest for part_text in self._texts(message) for part in self._message_segments(message, part_text)]
        return [*first, *(token for segment in segments for token in segment.ids)]

    def scored_text(self, text: str) -> str:
        """Without the empty line of an answer that calls no tool."""
        line, newline, rest = text.partition("\n")
        return rest.removeprefix(" ") if newline and not line.strip() else text

    def display_text(self, text: str, *, done: bool = True) -> str:
        """The text, for a call with the name of the tool on the first line; empty while the first line is unfinished."""
        line, newline, rest = text.partition("\n")
        if not newline:
            return fill_date(text) if done else ""
        return f"{line.strip()}\n{rest.strip()}" if line.strip() else fill_date(rest)

    def stable_prefix(self, shown: str) -> str:
        """Without an incomplete date at the end."""
        return without_partial_date_or_bracket(shown)

    def _message_segments(self, message: Message, text: str) -> list[Segment]:
        line = (self._role(message.role), *self.tokenizer.encode(f"{message.tool}\n"))
        return [Segment(line, fixed=True), Segment(tuple(self.tokenizer.encode(text)))]

    def _role(self, role: str) -> int:
        return self.tokenizer.controls[f"<|{role}|>"]

    def _texts(self, message: Message) -> list[str]:
        """Texts of a message: ChatGLM3 has the tools as a JSON list after the text, GLM-4 as a message of their own before it."""
        if not message.tools:
            text = self._format_call(message.text) if message.tool else message.text
            return [text] if text or message.role != "system" else []
        if self.name == "chatglm3":
            return [f"{message.text or CHATGLM3_TOOLS}\n{_to_json(list(message.tools))}"]
        tools = GLM4_TOOLS + "".join(f"\n\n{_glm4_tool(tool)}\n{GLM4_CALL}" for tool in message.tools)
        return [tools, message.text] if message.text else [tools]

    def _format_call(self, arguments: str) -> str:
        """The arguments of a call: Python code for ChatGLM3 if they are a JSON object, unchanged for GLM-4."""
        if self.name == "glm4":
            return arguments
        try:
            parsed = json.loads(arguments)
            if not isinstance(parsed, dict) or not all(name.isidentifier() for name in parsed):
                return arguments
            listed = ", ".join(f"{name}={value!r}" for name, value in parsed.items())
        except (ValueError, RecursionError):
            return arguments
        return f"```python\ntool_call({listed})\n```"


def _glm4_tool(tool: Mapping[str, object] | str) -> str:
    """The paragraph of a tool: its name and its description as JSON, or a text as it is."""
    if isinstance(tool, str):
        return tool
    function = tool.get("function", tool)
    name = function.get("name", "") if isinstance(function, Mapping) else ""
    return f"## {name}\n\n{_to_json(function)}"


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=4)
