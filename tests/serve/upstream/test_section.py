import pytest

from imprint.config import read_overrides
from imprint.messages import UserError
from imprint.serve.upstream.section import UpstreamSection, server_base_url


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/"]
)
def test_an_address_may_be_that_of_the_api_too(address: str) -> None:
    assert server_base_url(address) == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8000",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://",
        "http://ann:secret@host",
        "http://host:99999",
        "http://host:0",
        "http://host/?key=secret",
        "http://host/#x",
        "http://ho st",
        "http://例子",
        "http://[::1",
        "http://host/\n",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="addresses such as"):
        server_base_url(address)


def test_the_command_line_says_servers_names_and_where_the_key_is() -> None:
    words = ["upstream=[http://a:1/v1,http://b.example:2]", "upstream_models={flowers: org/demo}", "upstream_api=openai"]
    section = read_overrides(words, UpstreamSection)
    assert section.upstream == ("http://a:1", "http://b.example:2")
    assert (section.upstream_models, section.upstream_api, section.upstream_key_file) == ({"flowers": "org/demo"}, "openai", None)
    with pytest.raises(UserError, match="names a server twice"):
        read_overrides(["upstream=[http://a:1, http://a:1/v1]"], UpstreamSection)
