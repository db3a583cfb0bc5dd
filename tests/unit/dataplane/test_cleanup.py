"""What cleanup says of sets that it could not remove."""

from __future__ import annotations

import pytest
from pyroute2.netlink.nfnetlink import ipset as uapi

from agent.dataplane.iptables import cleanup
from agent.dataplane.iptables.cleanup import remove_sets
from agent.dataplane.iptables.rules import names
from agent.kernel.ipset_errors import SetError

SETS = [names.SET_PREFIX + f"{number:016}" for number in range(24)]


class HeldSets:
    """Sets that cannot be removed."""

    def __enter__(self) -> HeldSets:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def list_shapes(self, _: str) -> list[str]:
        return SETS

    def change(self, *_: object) -> list[SetError]:
        return []

    def destroy(self, name: str) -> None:
        raise SetError(name, "a rule refers to the set", "the agent tries again", uapi.IPSET_ERR_REFERENCED)


@pytest.fixture(autouse=True)
def _held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "IpSets", HeldSets)
    monkeypatch.setattr(names, "is_our_set", lambda _: True)
    monkeypatch.setattr(cleanup, "RULES_GO", 0.05)


@pytest.mark.parametrize("command", [None, "/sbin/iptables-save"])
def test_sets_that_rules_refer_to_are_one_fault(monkeypatch: pytest.MonkeyPatch, command: str | None) -> None:
    monkeypatch.setattr(cleanup, "find_command", lambda *_: command)
    (fault,) = remove_sets()
    assert fault.what.startswith(f"24 sets are left, the first: set {SETS[0]}: a rule refers")
    assert ("install the package iptables" in fault.remedy) is (command is None)
    assert "cleanup" in fault.remedy
