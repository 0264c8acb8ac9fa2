import pytest

from imprint.serve.web.settings import WebSettings, host_name, is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8504", "127.5.5.5", "[::1]:8504", "LOCALHOST:80", "localhost."])
def test_on_this_machine_its_own_names_are_known(host: str) -> None:
    assert WebSettings().allows_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "localhost:x",
        "[::1",
        "a b",
        "localhost:123456789",
    ],
)
def test_a_foreign_name_is_unknown(host: str) -> None:
    assert not WebSettings().allows_host(host)


def test_a_public_service_knows_its_names_and_every_address() -> None:
    settings = WebSettings(host="0.0.0.0", hosts=("chat.example",))
    assert all(settings.allows_host(host) for host in ("chat.example", "CHAT.example:443", "10.0.0.1:8504", "[2001:db8::1]"))
    assert not settings.allows_host("other.example")


@pytest.mark.parametrize(
    ("settings", "public"),
    [
        (WebSettings(), False),
        (WebSettings(host="::1"), False),
        (WebSettings(host="localhost", hosts=("localhost",)), False),
        (WebSettings(host="0.0.0.0"), True),
        (WebSettings(host="192.168.0.7"), True),
        (WebSettings(hosts=("chat.example",)), True),
        (WebSettings(proxies=("127.0.0.1",)), True),
    ],
)
def test_a_service_behind_a_proxy_is_public_whatever_it_listens_on(settings: WebSettings, *, public: bool) -> None:
    assert settings.public == public


def test_addresses_of_this_machine_in_ipv6_are_known() -> None:
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:8.8.8.8")
    assert host_name("[::1]:8504") == "::1"
