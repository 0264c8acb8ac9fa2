"""The knobs of `imprint serve`, and the folder in which `imprint user` looks, too."""

import ipaddress
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from pydantic import field_validator

from imprint.config import Field, Section
from imprint.messages import Bilingual, UserError
from imprint.serve.generation.section import ServedModelsSection
from imprint.serve.upstream.section import UpstreamSection

KNOB: Final = re.compile(r"[a-z_]+(\.[a-z_]+)*=")
"""How a knob begins; any other word names a model."""
LIBRARIES: Final = ("alembic", "argon2", "fastapi", "httpx2", "prometheus_client", "sqlalchemy", "uvicorn")
HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
"""A name as browsers send it: ASCII, and without a port."""
NO_NAME = Bilingual(
    "must be names such as chat.example.org, without http:// and a port, those in Chinese in their xn-- form",
    "须为 chat.example.org 这样的域名，不含 http:// 与端口；中文域名请用 xn-- 形式",
)
NO_ADDRESS = Bilingual("must be IP addresses, or networks such as 10.0.0.0/8", "须为 IP 地址，或 10.0.0.0/8 这样的网段")


class DataFolderSection(Section):
    """Where the service keeps accounts, chats and settings."""

    data: str = Field("imprint-data", min_length=1, description="Folder of the database: accounts, keys, quotas, chats, settings.")


class ServeSection(DataFolderSection, UpstreamSection, ServedModelsSection):
    """Where the service listens, who may come, and how much at a time."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on; by default for this machine alone. Anything wider is refused until the admin has changed the "
        "one-time password.",
    )
    port: int = Field(8504, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    hosts: tuple[str, ...] = Field(
        (), description="Names under which browsers reach the service, such as chat.example.org; requests for another name are refused."
    )
    proxies: tuple[str, ...] = Field(
        (), description="Addresses of reverse proxies, whose X-Forwarded-For and X-Forwarded-Proto are believed; those of others are not."
    )
    guest: bool = Field(
        False, description="Let guests in from everywhere. On a service for this machine alone they may chat at once in any case."
    )
    legacy: bool = Field(
        False, description="Serve the form of 2023, too: POST / with {prompt, history}; without a key only on this machine."
    )
    grace: float = Field(10.0, ge=0, le=600, description="Seconds that running answers have once the service is told to end.")

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if HOST_NAME.fullmatch(name):
                continue
            try:
                ipaddress.ip_address(name)
            except ValueError:
                raise ValueError(NO_NAME) from None
        return value

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError:
                raise ValueError(NO_ADDRESS) from None
        return value


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The models that a command line names, and the knobs that stand among them."""
    return [word for word in words if not KNOB.match(word)], [word for word in words if KNOB.match(word)]


def refuse_missing_libraries() -> None:
    """Raise UserError where the libraries of the service are not installed."""
    missing = ", ".join(name for name in LIBRARIES if find_spec(name) is None)
    if missing:
        raise UserError(
            Bilingual(
                f'the service needs {missing}, which is not installed. Run `pip install "imprint[serve]"`.',
                f'在线服务需要 {missing}，尚未安装：请运行 pip install "imprint[serve]"。',
            )
        )
