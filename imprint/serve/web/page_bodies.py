"""The bodies of the page's requests."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from imprint.messages import Bilingual
from imprint.serve.generation.job import EndReason
from imprint.serve.web.errors import ApiError
from imprint.serve.web.openai_bodies import Body

MAX_CHARACTERS = 200_000
MAX_FIELDS = 64
"""More than any body of the page has: each unknown one would be an error of its own."""
TOO_MANY_FIELDS = Bilingual(f"An object has more than {MAX_FIELDS} fields.", f"对象的字段超过 {MAX_FIELDS} 个。")
Name = Annotated[str, Field(min_length=1, max_length=200)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Models = Annotated[list[ModelName], Field(max_length=1000)]
Tokens = Annotated[int, Field(ge=0, le=10**12)]
Concurrency = Annotated[int, Field(ge=1, le=1000)]


class StrictBody(Body):
    """A body of our own page: a field that is unknown is a mistake."""

    model_config = Body.model_config | {"extra": "forbid"}

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise ApiError("invalid_value", TOO_MANY_FIELDS)
        return value


class LoginBody(StrictBody):
    """Name and password."""

    name: Name
    password: str = Field(min_length=1, max_length=4096)


class AccountRequestBody(StrictBody):
    """A request for an account."""

    name: Name
    contact: Name
    reason: str = Field("", max_length=4000)


class PasswordBody(StrictBody):
    """The old password and the new one."""

    old: str = Field(min_length=1, max_length=4096)
    new: str = Field(min_length=1, max_length=4096)


class KeyBody(StrictBody):
    """A key that is wanted."""

    name: str = Field("", max_length=200)
    models: Models | None = None
    expires_in_days: int | None = Field(None, ge=1, le=3650)


class TitleBody(StrictBody):
    """A chat's title."""

    title: str = Field("", max_length=1000)


class ImportedMessageBody(StrictBody):
    """A message of an exported chat, in the form of the export."""

    id: str = Field(min_length=1, max_length=64)
    parent_id: str | None = Field(None, min_length=1, max_length=64)
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_CHARACTERS)
    model: ModelName | None = None
    state: Literal["writing", "done", "interrupted", "error"] = "done"
    finish_reason: EndReason | None = None
    prompt_tokens: int = Field(0, ge=0, lt=2**31)
    completion_tokens: int = Field(0, ge=0, lt=2**31)
    created_at: str = Field("", max_length=64)


class ImportBody(StrictBody):
    """An exported chat; its own id and times are not kept."""

    id: str = Field("", max_length=64)
    title: str = Field("", max_length=1000)
    created_at: str = Field("", max_length=64)
    updated_at: str = Field("", max_length=64)
    messages: Annotated[list[ImportedMessageBody], Field(fail_fast=True)] = Field(max_length=10_000)


class Sampling(StrictBody):
    """How answers are sampled; null takes the defaults of `imprint chat`."""

    models: list[ModelName] = Field(min_length=1, max_length=4, description="Whose answers: one, or several side by side.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=2**31)


class MessageBody(Sampling):
    """A question in a chat; without a text, the one that stands there is answered again."""

    text: str | None = Field(None, min_length=1, max_length=MAX_CHARACTERS)
    parent: str | None = Field(None, max_length=200, description="The message that this one follows; without a text, the question.")

    @model_validator(mode="after")
    def _is_about_something(self) -> "MessageBody":
        if self.text is None and self.parent is None:
            raise ValueError(
                Bilingual("must have a text, or as parent the question to answer again", "须有 text，或以 parent 指明要重新回答的问题")
            )
        return self


class SingleBody(Sampling):
    """A question of a single turn, of which nothing is kept."""

    text: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    ephemeral: Literal[True] = True


class NewUserBody(StrictBody):
    """An account."""

    name: Name
    role: Literal["user", "admin"] = "user"
    models: Models | None = None
    tokens_a_day: Tokens | None = None
    concurrency: Concurrency | None = None
    contact: str = Field("", max_length=200)


class ChangeBody(StrictBody):
    """What changes of an account; a field that is not there stays. `models: null` means all."""

    role: Literal["user", "admin"] | None = None
    models: Models | None = None
    tokens_a_day: Tokens | None = None
    concurrency: Concurrency | None = None
    disabled: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ChangeBody":
        empty = [name for name in self.model_fields_set - {"models"} if getattr(self, name) is None]
        if empty:
            raise ValueError(
                Bilingual(f"has no {min(empty)}: null changes nothing; leave the field out", f"的 {min(empty)} 为 null，不起作用，请去掉")
            )
        return self


class ApproveBody(StrictBody):
    """What an approved account may."""

    name: Name | None = None
    models: Models | None = None
    tokens_a_day: Tokens | None = None
    concurrency: Concurrency | None = None


class SettingsBody(StrictBody):
    """Settings of the whole service."""

    guests: Literal["loopback", "everywhere", "off"]


def as_set(models: list[str] | None) -> frozenset[str] | None:
    """Models as the store takes them."""
    return None if models is None else frozenset(models)
