"""functions/_connections/addresses.py: the limits of public networks, and IPv4 addresses within IPv6 addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions._connections.addresses import is_public

PRIVATE_4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255",
    "127.0.0.0", "127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.0.0", "169.254.169.254", "169.254.255.255",
    "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.192", "192.0.0.255", "192.0.2.1", "192.88.99.1",
    "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.0", "239.255.255.255", "240.0.0.0", "255.255.255.255",
]  # fmt: skip
PUBLIC_4 = [
    "1.0.0.0", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
    "223.255.255.255",
]  # fmt: skip
PRIVATE_6 = [
    "::", "::1", "::2", "100::1", "64:ff9a:ffff::", "64:ff9b::1:0:0", "64:ff9b:1::808:808", "1fff:ffff::", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:1ff:ffff::", "2001:db8::1", "2002:808:808::1", "3fff::1",
    "3fff:fff::1", "4000::", "5f00::1", "fc00::", "fd00:ec2::254", "fd20:ce::254", "fdff:ffff::", "fe80::1",
    "fe80::1%1", "febf::1", "fec0::1", "ff00::", "ff02::1", "ff0e::1", "2606:4700:4700::1111%1",
]  # fmt: skip
PUBLIC_6 = [
    "2000::", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "2606:4700:4700::1111", "2a00:1450::1",
    "3ffe:ffff::", "3fff:1000::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE_4 + PRIVATE_6)
def test_is_public__special_purpose__false(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC_4 + PUBLIC_6)
def test_is_public__next_to_special_purpose__true(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_is_public__ipv4_in_ipv6__nat64_only(address: IPv4Address) -> None:
    packed = address.packed
    never = {
        "compatible": bytes(12) + packed,
        "mapped": bytes(10) + b"\xff\xff" + packed,
        "translated": bytes(8) + b"\xff\xff\0\0" + packed,
        "6to4": bytes.fromhex("2002") + packed + bytes(10),
        "Teredo's server": bytes.fromhex("20010000") + packed + bytes(8),
        "Teredo's client": bytes.fromhex("20010000") + bytes(8) + bytes(byte ^ 0xFF for byte in packed),
        "a NAT64 of one's own": bytes.fromhex("0064ff9b0001") + bytes(6) + packed,
    }
    assert [name for name, wrapped in never.items() if is_public(IPv6Address(wrapped))] == []
    assert is_public(IPv6Address(bytes.fromhex("0064ff9b") + bytes(8) + packed)) == is_public(address)


@given(st.ip_addresses())
def test_is_public__not_global_in_python__false(address: IPv4Address | IPv6Address) -> None:
    if is_public(address) and not address.exploded.startswith("0064:ff9b:"):
        assert address.is_global
        assert not any([address.is_multicast, address.is_reserved, address.is_link_local, address.is_loopback])
