import asyncio

import pytest

from imprint.serve.web.errors import ApiError
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore


def test_draining_closes_the_door_and_waits_for_the_backend() -> None:
    backend = ScriptedBackend()
    services = Services(backend, ScriptedStore().as_store(), WebSettings(grace=0.1), Metrics(backend))
    services.check_open()
    ready = [services.ready]
    asyncio.run(services.drain())
    assert [*ready, services.ready] == [True, False]
    with pytest.raises(ApiError) as caught:
        services.check_open()
    assert caught.value.status == 503
