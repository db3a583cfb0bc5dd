"""These tests use the real kernel, in network namespaces of their own: they need root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.dataplane.iptables.variant import MODES
from agent.kernel import nf_owned
from agent.kernel.netlink import NetlinkSocket
from tests.kernel import kernel_state
from tests.lab.backends import USUAL, BackendKind
from tests.lab.netns import Netns


@pytest.fixture(autouse=True, scope="session")
def _root() -> None:
    if os.geteuid() != 0:
        reason = "needs root: it makes network namespaces"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def netns() -> Iterator[Netns]:
    """An empty network namespace, which the test's thread has entered."""
    namespace = Netns("test")
    try:
        with namespace.entered():
            yield namespace
    finally:
        namespace.close()


@pytest.fixture
def owning() -> None:
    """For what needs a kernel that lets tables of nftables belong to a program."""
    with contextlib.closing(Netns("owning")) as namespace, namespace.entered(), NetlinkSocket() as netlink:
        if not nf_owned.flags(netlink):
            pytest.skip("needs Linux 6.9: tables of nftables that belong to a program, and stay without it")


@pytest.fixture
def lock_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A lock file for legacy iptables of the test's own: its namespace is no other's either."""
    path = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


@pytest.fixture(params=USUAL, ids=lambda kind: kind.name)
def backend(request: pytest.FixtureRequest) -> BackendKind:
    """Each backend once; a test that has the legacy tables too says so."""
    found: BackendKind = request.param
    return found


@pytest.fixture(params=MODES)
def node(request: pytest.FixtureRequest, netns: Netns, lock_file: Path) -> kernel_state.TwoPods:
    """A node in each mode, with a backend that has programmed it."""
    del netns, lock_file
    return kernel_state.TwoPods(request.param)
