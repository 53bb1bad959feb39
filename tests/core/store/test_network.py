"""Which addresses may be connected to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from retrieval_core.errors import AddressRefused, BadConfig
from retrieval_core.store.network import check_name, is_public, public_or_listed

# Addresses of machines, networks, protocols and documentation.
INNER = (
    "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "168.63.129.16",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:a00:1::", "2002:c0a8:1::", "3fff::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1",
)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "8.8.8.8",
        "93.184.216.34",
        "1.1.1.1",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    INNER,
)
def test_addresses_of_machines_networks_and_protocols_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


def test_listed_hosts_addresses_and_networks_are_allowed_and_others_are_not() -> None:
    is_allowed = public_or_listed("cdn.local, 10.1.0.0/16,192.168.3.4, fd00::/8 ,")
    for host, address in [
        ("cdn.local", "10.9.9.9"), ("CDN.local.", "127.0.0.1"), ("a", "10.1.2.3"), ("a", "::ffff:10.1.2.3"),
        ("a", "192.168.3.4"), ("a", "fd00::1"), ("a", "8.8.8.8"),
    ]:  # fmt: skip
        assert is_allowed(host, ip_address(address)), (host, address)
    for host, address in [
        ("a", "10.2.0.1"), ("cdn", "10.9.9.9"), ("x.cdn.local", "10.9.9.9"), ("a", "192.168.3.5"), ("a", "127.0.0.1"),
    ]:  # fmt: skip
        assert not is_allowed(host, ip_address(address)), (host, address)


@pytest.mark.parametrize(
    "entry",
    [
        "10.1.2.3/16",
        "10.1.2",
        "10.1.2.300",
        "*.shop.example",
        "http://cdn.local",
        "cdn local",
        "10.0.0.0/33",
        "a/b",
        "-",
    ],
)
def test_a_wrong_entry_of_the_list_is_named(entry: str) -> None:
    with pytest.raises(BadConfig, match="VITRINE_FETCH_ALLOW") as raised:
        public_or_listed(f"cdn.local,{entry}")
    assert repr(entry) in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "::1", "localhost", "a.localhost", "LOCALHOST."])
def test_an_inner_host_is_not_named_to_a_proxy(host: str) -> None:
    check_name("shop.example", is_allowed := public_or_listed(""))
    check_name(host, public_or_listed("127.0.0.0/8,::1"))
    with pytest.raises(AddressRefused, match="not on the public internet"):
        check_name(host, is_allowed)
