"""What ends the agent before it begins."""

from __future__ import annotations

import errno

import pytest

from agent.node import _health_remedy


@pytest.mark.parametrize(
    ("number", "option"),
    [
        (errno.EADDRNOTAVAIL, "--health-address"),
        (errno.EAFNOSUPPORT, "--health-address"),
        (errno.EADDRINUSE, "--health-port"),
        (errno.EACCES, "--health-port"),
    ],
)
def test_health_that_cannot_be_served_names_the_option_to_change(number: int, option: str) -> None:
    assert option in _health_remedy(OSError(number, "trouble"))
