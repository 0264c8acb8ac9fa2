import pytest

from imprint.serve.web.errors import ApiError
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.models import find_model
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal


def test_a_model_without_a_right_is_as_if_there_were_none() -> None:
    backend = ScriptedBackend()
    services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))
    with pytest.raises(ApiError) as caught:
        find_model(services, principal("bob", "user", models=frozenset({"tuned"})), "base")
    assert caught.value.code == "model_not_found"
    assert "tuned" in caught.value.message.english
    assert find_model(services, None, "base").id == "base"
