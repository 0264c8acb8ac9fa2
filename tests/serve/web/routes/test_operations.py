from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ADMIN_KEY, KEY, ScriptedBackend, serving


def test_ready_tells_what_the_backend_says_and_live_does_not() -> None:
    backend = ScriptedBackend()
    with serving(backend) as running, running.client() as client:
        assert client.get("/health/ready").status_code == 200
        backend.is_ready = False
        not_ready = client.get("/health/ready")
        assert (not_ready.status_code, not_ready.headers["retry-after"], client.get("/health/live").status_code) == (503, "5", 200)


def test_figures_are_for_this_machine_or_an_admin() -> None:
    with serving() as running, running.client() as client:
        assert "imprint_engine_running" in client.get("/metrics", headers={"Authorization": ""}).text
    with serving(settings=WebSettings(proxies=("127.0.0.1",), grace=0.5)) as running:
        for key, status in (("", 401), (KEY, 403), (ADMIN_KEY, 200)):
            with running.client(key) as client:
                assert client.get("/metrics").status_code == status
