import pytest

from imprint.serve.store.addresses import visitor_address, visitor_network


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::99", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 45),
    ],
)
def test_a_visitor_is_an_ipv4_address_or_the_network_of_an_ipv6_one(address: str, counted: str) -> None:
    assert visitor_address(address) == counted


def test_a_site_of_ipv6_is_one_network() -> None:
    assert visitor_network("2001:db8:1:2:3:4:5:6") == visitor_network("2001:db8:1:ffff::1") == "2001:db8:1::/48"
    assert visitor_network("192.0.2.7") == visitor_network("::ffff:192.0.2.7") == "192.0.2.7"
