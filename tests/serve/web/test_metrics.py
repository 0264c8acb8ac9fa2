from imprint.serve.web.metrics import Metrics
from tests.serve.web.scripted import ScriptedBackend


def test_the_backend_is_asked_at_the_moment_and_nothing_is_global() -> None:
    backend = ScriptedBackend()
    first, second = Metrics(backend), Metrics(backend)
    first.login_failures.inc()
    backend.running = 7
    assert b"imprint_engine_running 7.0" in first.text()
    assert b"imprint_engine_ready 1.0" in first.text()
    assert b"imprint_login_failures_total 1.0" in first.text()
    assert b"imprint_login_failures_total 0.0" in second.text()
