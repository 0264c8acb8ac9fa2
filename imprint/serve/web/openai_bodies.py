"""The bodies of OpenAI's requests that are understood, and what is refused because an answer would differ from what was asked.

Fields and their bounds: https://platform.openai.com/docs/api-reference/chat/create. A field that is not here is ignored; those that
OpenAI documents and that would change the answer are refused by name (`REFUSED`) unless they have the value that changes nothing.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from imprint.messages import Bilingual
from imprint.serve.web.errors import ApiError

MAX_ANSWERS: Final = 4
MAX_STOPS: Final = 4
MAX_STOP_CHARACTERS: Final = 64
MAX_MESSAGES: Final = 4096
MAX_TOP_K: Final = 1_000_000
REFUSED: Final[Mapping[str, tuple[object, ...]]] = MappingProxyType(
    {
        "presence_penalty": (None, 0, 0.0),
        "frequency_penalty": (None, 0, 0.0),
        "logit_bias": (None, {}),
        "response_format": (None, {"type": "text"}),
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "web_search_options": (None,),
        "reasoning_effort": (None, "none"),
        "min_p": (None, 0, 0.0),
        "min_tokens": (None, 0),
        "stop_token_ids": (None, []),
        "ignore_eos": (None, False),
        "guided_json": (None,),
        "guided_regex": (None,),
        "guided_choice": (None,),
        "guided_grammar": (None,),
        "chat_template": (None,),
        "chat_template_kwargs": (None, {}),
        "length_penalty": (None, 1, 1.0),
        "use_beam_search": (None, False),
        "best_of": (None, 1),
        "suffix": (None, ""),
        "echo": (None, False),
        "do_sample": (None,),
        "num_beams": (None, 1),
        "no_repeat_ngram_size": (None, 0),
    }
)
"""Field that would change an answer -> its values that change nothing."""
ONE_LIMIT: Final = Bilingual(
    "and max_completion_tokens say different lengths; send one of them", "与 max_completion_tokens 不一致；请只用其一"
)
UNSUPPORTED: Final = Bilingual("would change the answer and is not supported; leave it out.", "会改变回答，而本服务不支持；请去掉。")
EMPTY_STOP: Final = Bilingual(f"must be 1 to {MAX_STOP_CHARACTERS} characters each", f"每个须为 1 至 {MAX_STOP_CHARACTERS} 个字符")
NO_CONTENT: Final = Bilingual("must have content", "须有 content")


class Body(BaseModel):
    """A request's body: numbers as numbers, and no NaN."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class FunctionCall(Body):
    """What a tool is called with."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str


class ToolCall(Body):
    """A call of a tool by the assistant."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = Field(None, max_length=64)

    @model_validator(mode="after")
    def _has_content(self) -> "ChatMessage":
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(NO_CONTENT)
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


Messages = Annotated[list[ChatMessage], Field(fail_fast=True)]
"""Messages, of which the first that is wrong is named: to gather the errors of a whole body would stop the service for seconds."""


class StreamOptions(Body):
    """What a stream has beside the answer."""

    include_usage: bool = False


class AnswerBody(Body):
    """What both forms have."""

    model: str = Field(min_length=1, max_length=256)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    queue_events: bool = Field(False, description="Comments in a stream that tell the place in the queue, such as `: queue 3`.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=MAX_TOP_K, description="Sample from this many most probable tokens; 0 and -1 from all.")
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None

    @field_validator("stop")
    @classmethod
    def _short_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if any(not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise ValueError(EMPTY_STOP)
        return value

    @model_validator(mode="before")
    @classmethod
    def _nothing_refused(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in REFUSED.keys() & value.keys():
                if not any(type(value[name]) is type(plain) and value[name] == plain for plain in REFUSED[name]):
                    raise ApiError(
                        "unsupported_value", Bilingual(f"{name} {UNSUPPORTED.english}", f"{name} {UNSUPPORTED.chinese}"), param=name
                    )
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def answers(self) -> int:
        """How many answers."""
        return self.n or 1


class ChatBody(AnswerBody):
    """POST /v1/chat/completions."""

    messages: Messages = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = Field(None, max_length=128)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "ChatBody":
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError(Bilingual(f"max_tokens {ONE_LIMIT.english}", f"max_tokens {ONE_LIMIT.chinese}"))
        if self.top_logprobs and not self.logprobs:
            raise ValueError(Bilingual("has top_logprobs, which needs logprobs: true", "含有 top_logprobs，须同时设 logprobs: true"))
        return self

    @property
    def length(self) -> int | None:
        """Most new tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionBody(AnswerBody):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def text(self) -> str:
        """The text to continue."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class TokenizeBody(Body):
    """POST /v1/tokenize: a conversation, or a text."""

    model: str = Field(min_length=1, max_length=256)
    messages: Messages | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    prompt: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "TokenizeBody":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError(Bilingual("must have either messages or prompt", "须有 messages 或 prompt 之一"))
        return self


class LegacyBody(Body):
    """`POST /` of ChatGLM-6B's api.py."""

    prompt: str = Field(min_length=1)
    history: Annotated[list[Annotated[list[str], Field(min_length=2, max_length=2)]], Field(fail_fast=True)] = Field(
        [], max_length=MAX_MESSAGES
    )
    max_length: int = Field(2048, ge=1, le=2**31)
    top_p: float = Field(0.7, gt=0, le=1)
    temperature: float = Field(0.95, ge=0, le=2)
