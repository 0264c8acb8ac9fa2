"""The knobs of the servers behind this one."""

from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import field_validator

from imprint.config import Field, Section
from imprint.messages import Bilingual

NO_ADDRESS: Final = Bilingual(
    "must be addresses such as http://127.0.0.1:8000, without a name or a password, ? and #",
    "须为 http://127.0.0.1:8000 这样的地址，不含用户名、密码、? 和 #",
)
TWICE: Final = Bilingual("names a server twice", "同一服务器出现了两次")


class UpstreamSection(Section):
    """Where answers come from, if not from a model of this process."""

    upstream: tuple[str, ...] = Field(
        (),
        description="Addresses of servers with OpenAI's API, such as [http://127.0.0.1:8000] of vLLM or SGLang, that answer in place of a "
        "model of this process. Several share the work; one that fails is left out until it answers again.",
    )
    upstream_models: dict[str, str] = Field(
        {}, description="Which models of these servers are served, {our name: their id}; empty serves all by their own ids."
    )
    upstream_key_file: str | None = Field(
        None,
        min_length=1,
        description="File that holds the key of these servers; null takes the environment variable IMPRINT_UPSTREAM_KEY, if it is set.",
    )
    upstream_api: Literal["vllm", "openai"] = Field(
        "vllm",
        description="What these servers understand: vllm, of vLLM and SGLang, has top_k and repetition_penalty; openai has what OpenAI "
        "documents alone, and requests with either of the two are refused.",
    )

    @field_validator("upstream")
    @classmethod
    def _are_servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        addresses = tuple(map(server_base_url, value))
        if len({*addresses}) < len(addresses):
            raise ValueError(TWICE)
        return addresses


def server_base_url(address: str) -> str:
    """The address without /v1 and a slash at its end. Raises ValueError for what is no address of a server."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ValueError(NO_ADDRESS) from None
    unusual = (
        "@" in parts.netloc or "?" in address or "#" in address or not address.isascii() or not address.isprintable() or " " in address
    )
    if parts.scheme not in {"http", "https"} or not parts.hostname or unusual or port == 0:
        raise ValueError(NO_ADDRESS)
    return address.rstrip("/").removesuffix("/v1").rstrip("/")
