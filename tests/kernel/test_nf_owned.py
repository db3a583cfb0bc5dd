"""Whose a table of nftables is, as people are told it."""

from __future__ import annotations

import os
import socket

import pytest

from agent.kernel import nf_owned
from agent.kernel.netlink import NETFILTER, NetlinkSocket
from agent.kernel.nf_owned import OWNER, owner_of
from agent.kernel.nf_write import add_table, transact
from tests.lab.netns import Netns


@pytest.mark.usefixtures("owning")
def test_the_process_is_found_by_its_socket_whatever_number_that_has(
    netns: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the number is mostly 1, which elsewhere is that of init."""
    with netns.entered():
        owning = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        owning.bind((1, 0))
        with NetlinkSocket(descriptor=owning.detach()) as netlink:
            transact(netlink, [add_table("t", flags=OWNER)])
            assert netlink.number == 1
            assert owner_of("t") == f"process {os.getpid()}"
            monkeypatch.setattr(nf_owned, "_holds", lambda *_: False)
            assert owner_of("t").startswith("a process that is not to be seen from here")
        assert owner_of("t") == ""
