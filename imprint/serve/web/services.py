"""What the routes work with."""

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.requests import Request

from imprint.messages import Bilingual
from imprint.serve.generation.job import Backend
from imprint.serve.store.principal import Principal
from imprint.serve.web.errors import ApiError
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.settings import WebSettings

ENDING: Final = Bilingual("The service is ending; try again later.", "服务正在关闭；请稍后再试。")


class Keys(Protocol):
    """API keys."""

    def of(self, key: str, /) -> Principal | None:
        """Whose key it is; None for none that is valid."""


class Sessions(Protocol):
    """Browser sessions."""

    def of(self, token: str, /) -> Principal | None:
        """Whose session's token it is; None for none that is valid."""


class Quota(Protocol):
    """Tokens of a day."""

    def reserve(self, principal: Principal, address: str, tokens: int) -> Any:
        """Set tokens aside. Raises StoreError if there are not so many left."""

    def settle(self, reservation: Any, tokens: int) -> None:
        """Count what was really used instead."""


class AccountStore(Protocol):
    """What the routes of programs ask of the store."""

    @property
    def keys(self) -> Keys:
        """API keys."""

    @property
    def sessions(self) -> Sessions:
        """Browser sessions."""

    @property
    def quota(self) -> Quota:
        """Tokens of a day."""


@dataclass
class Services:
    """The backend, the store, and how they are offered."""

    backend: Backend
    """Where answers come from."""
    store: AccountStore
    """Accounts, keys, quotas and chats."""
    settings: WebSettings
    """How the service is reached."""
    metrics: Metrics
    """What is counted."""
    draining: bool = field(default=False, init=False)
    """Whether the signal to end has come."""

    @property
    def ready(self) -> bool:
        """Whether answers are given."""
        return not self.draining and self.backend.ready()

    async def drain(self) -> None:
        """Take no further jobs, and wait until all have ended, for the grace at most."""
        self.draining = True
        await self.backend.close(self.settings.grace)

    def check_open(self) -> None:
        """Raise ApiError once the service is ending."""
        if self.draining:
            raise ApiError("shutting_down", ENDING, retry_after=self.settings.grace)


def services_of(request: Request) -> Services:
    """What this request's application works with."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


def principal_of(request: Request) -> Principal:
    """Who asks; the route's access has been checked."""
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return principal


def address_of(request: Request) -> str:
    """The address from which a request comes."""
    return request.client.host if request.client else ""
