from types import SimpleNamespace

import pytest
from starlette.requests import Request

from imprint.serve.web.access import check_same_site, cookie_name, credential_of, is_local
from imprint.serve.web.errors import ApiError
from imprint.serve.web.settings import WebSettings


def request(headers: dict[str, str], scheme: str = "http", address: str = "127.0.0.1") -> Request:
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "scheme": scheme,
            "headers": sent,
            "path": "/",
            "query_string": b"",
            "server": ("localhost", 80),
            "client": (address, 1),
        }
    )


OWN = {"Host": "localhost:8504", "X-Requested-With": "imprint"}


@pytest.mark.parametrize(
    "headers",
    [
        OWN,
        {**OWN, "Origin": "http://localhost:8504", "Sec-Fetch-Site": "same-origin"},
        {**OWN, "Host": "chat.example", "Origin": "http://chat.example:80"},
    ],
)
def test_the_pages_own_requests_pass(headers: dict[str, str]) -> None:
    check_same_site(request(headers))
    assert headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8504"},
        {**OWN, "Origin": "https://evil.example"},
        {**OWN, "Origin": "null"},
        {**OWN, "Origin": "http://localhost:9999"},
        {**OWN, "Origin": "https://localhost:8504"},
        {**OWN, "Origin": "http://[broken"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_site_could_send_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        check_same_site(request(headers))
    assert (caught.value.status, caught.value.code) == (403, "cross_site_request")


def test_the_cookie_has_a_name_that_no_other_host_can_set_over_tls() -> None:
    assert (cookie_name(request({})), cookie_name(request({}, "https"))) == ("imprint_session", "__Host-imprint_session")


def test_a_key_comes_as_a_bearer_and_a_session_as_a_cookie_and_neither_otherwise() -> None:
    both = request({"Authorization": "bearer  sk-1 ", "Cookie": "imprint_session=tok; x=y"})
    key, session = credential_of(both, "key"), credential_of(both, "session")
    assert key is not None
    assert session is not None
    assert (key.secret, session.secret) == ("sk-1", "tok")
    assert credential_of(request({"Authorization": "Basic x", "X-Api-Key": "sk-1"}), "key") is None
    assert credential_of(request({"Cookie": "imprint_session=tok"}, "https"), "session") is None


def test_a_proxy_on_this_machine_is_not_this_machine() -> None:
    for settings, address, here in (
        (WebSettings(), "127.0.0.1", True),
        (WebSettings(proxies=("127.0.0.1",)), "127.0.0.1", False),
        (WebSettings(host="0.0.0.0"), "127.0.0.1", False),
        (WebSettings(), "10.0.0.1", False),
    ):
        assert is_local(request({}, address=address), SimpleNamespace(settings=settings)) is here  # type: ignore[arg-type]


@pytest.mark.parametrize("header", [{"X-Forwarded-For": "192.0.2.1"}, {"Via": "1.1 x"}, {"Origin": "https://evil.example"}])
def test_what_a_proxy_or_another_site_sends_is_not_of_this_machine(header: dict[str, str]) -> None:
    services = SimpleNamespace(settings=WebSettings())
    assert is_local(request({"Host": "localhost"}), services)  # type: ignore[arg-type]
    assert not is_local(request({"Host": "localhost", **header}), services)  # type: ignore[arg-type]
