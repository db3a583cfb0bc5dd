"""CIDR and address text, as Go reads it and as a create accepts it."""

from __future__ import annotations

import pytest

from agent.kube.address import covers, lenient_address, lenient_network, strict_network
from agent.net import Network, address_text


def network(text: str) -> Network:
    found = strict_network(text)
    assert isinstance(found, Network)
    return found


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("010.001.02.3/16", "10.1.0.0/16"),
        ("10.0.0.0/08", "10.0.0.0/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.9.8.7/104", "10.0.0.0/8"),
        ("::ffff:0a00:0/104", "10.0.0.0/8"),
        ("::ffff:010.0.0.0/128", "10.0.0.0/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:10.0.0.0/90", "::ffc0:0:0/90"),
        ("fd00::1/8", "fd00::/8"),
        ("00fd:00000::/16", "fd::/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("255.255.255.255/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_stored_text_means_what_go_reads(text: str, meaning: str) -> None:
    assert str(lenient_network(text)) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/8",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.256/8",
        "10.0.0.0/+8",
        "a/8",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "::/129",
        "fe80::%eth0/64",
        "1:2/16",
        " 10.0.0.0/8",
        "10.0.0.0/٨",
        "\0/8",
    ],
)
def test_text_that_is_no_cidr_is_refused(text: str) -> None:
    assert lenient_network(text) is None
    assert isinstance(strict_network(text), str)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("010.0.0.01", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FD00::1", "fd00::1"),
    ],
)
def test_stored_addresses(text: str, meaning: str) -> None:
    packed = lenient_address(text)
    assert packed is not None
    assert address_text(packed) == meaning


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.1/32", "fe80::1%eth0", "x", "10.0.0.1 ", "\0"])
def test_text_that_is_no_address(text: str) -> None:
    assert lenient_address(text) is None


@pytest.mark.parametrize(
    ("outer", "inner", "inside"),
    [
        ("10.0.0.0/8", "10.1.0.0/16", True),
        ("10.0.0.0/8", "10.0.0.0/8", True),
        ("10.0.0.0/8", "10.0.0.0/7", False),
        ("10.0.0.0/8", "11.0.0.0/16", False),
        ("0.0.0.0/0", "fd00::/8", False),
        ("::/0", "fd00::/8", True),
    ],
)
def test_covers(outer: str, inner: str, inside: bool) -> None:
    assert covers(network(outer), network(inner)) is inside
