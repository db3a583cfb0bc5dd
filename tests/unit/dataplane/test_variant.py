"""Which iptables mode a node uses, from what was found in its tables."""

import contextlib
import errno
import os

import pytest

from agent.dataplane.iptables import variant as mode_module
from agent.dataplane.iptables.variant import (
    MODES,
    Evidence,
    Mode,
    ModeChoice,
    UndecidedError,
    choose,
    decide_mode,
    evidence,
)
from agent.kernel import nf_tables
from agent.kernel import x_tables as legacy_module
from agent.kernel.x_tables import parse
from agent.net import Family

NOTHING = Evidence()
HINT = Evidence(hint="KUBE-IPTABLES-HINT")
OURS = Evidence(ours=True)
MISSING = Evidence(usable=False)
UNREAD = Evidence(trouble="no answer")


def decide(nft: Evidence, legacy: Evidence, setting: str = "auto") -> ModeChoice:
    return choose(setting, {"nft": nft, "legacy": legacy})


@pytest.mark.parametrize(
    ("nft", "legacy", "mode", "why"),
    [
        (NOTHING, NOTHING, "nft", "legacy has no more rules (0 rules in nft, 0 in legacy), and"),
        (HINT, Evidence(rules=1000), "nft", "kubelet's chain KUBE-IPTABLES-HINT"),
        (Evidence(rules=1000), HINT, "legacy", "kubelet's chain"),
        (HINT, HINT, "nft", "kubelet's chain"),
        (HINT, OURS, "nft", "kubelet's chain"),
        (Evidence(rules=5), Evidence(rules=6), "legacy", "5 rules in nft, 6 in legacy"),
        (Evidence(rules=6), Evidence(rules=6), "nft", "6 rules in nft, 6 in legacy"),
        (Evidence(rules=5), OURS, "legacy", "this agent's chains"),
        (OURS, Evidence(rules=5), "nft", "this agent's chains"),
        (Evidence(ours=True, rules=5), Evidence(ours=True, rules=6), "legacy", "5 rules in nft, 6 in legacy"),
        (MISSING, NOTHING, "legacy", "no command"),
        (HINT, MISSING, "nft", "no command"),
    ],
)
def test_auto(nft: Evidence, legacy: Evidence, mode: Mode, why: str) -> None:
    choice = decide(nft, legacy)
    assert choice.mode == mode
    assert choice.reason.startswith(f"{mode}: ")
    assert why in choice.reason
    assert choice.faults == ()


@pytest.mark.parametrize("mode", MODES)
def test_a_setting_decides_against_all_evidence(mode: Mode) -> None:
    found: dict[Mode, Evidence] = {"nft": HINT, "legacy": HINT._replace(ours=True)}
    choice = choose(mode, found)
    assert choice.mode == mode
    assert choice.reason == f"{mode}: set by --iptables-mode"


def test_a_missing_command_is_a_fault_of_the_mode_that_needs_it() -> None:
    assert [fault.blocking for fault in decide(MISSING, NOTHING, "nft").faults] == [True]
    assert decide(MISSING, NOTHING, "legacy").faults == ()
    assert [fault.blocking for fault in decide(MISSING, MISSING).faults] == [True]


def test_a_mode_that_the_kernel_lacks_is_not_used_and_says_so() -> None:
    broken = Evidence(usable=False, trouble="iptables-nft-save: Protocol not supported")
    other, same = decide(broken, NOTHING), decide(broken, NOTHING, "nft")
    assert other.mode == "legacy"
    assert [(fault.blocking, "not supported" in fault.what) for fault in other.faults] == [(False, True)]
    assert [fault.blocking for fault in same.faults] == [True]


@pytest.mark.parametrize(
    ("nft", "legacy", "mode"),
    [
        (UNREAD, NOTHING, None),
        (UNREAD, Evidence(rules=1000), None),
        (UNREAD, HINT, None),
        (UNREAD, HINT._replace(ours=True), "legacy"),
        (UNREAD, OURS, "legacy"),
        (UNREAD._replace(hint="KUBE-IPTABLES-HINT"), HINT, "nft"),
        (UNREAD._replace(ours=True), HINT, "nft"),
        (UNREAD._replace(ours=True), OURS, None),
        (NOTHING, UNREAD, None),
        (Evidence(rules=1000), UNREAD, None),
        (HINT, UNREAD, "nft"),
        (OURS, UNREAD, "nft"),
        (MISSING, UNREAD, "legacy"),
        (UNREAD, MISSING, "nft"),
    ],
)
def test_a_table_that_cannot_be_read_is_not_taken_for_empty(
    nft: Evidence, legacy: Evidence, mode: Mode | None
) -> None:
    if mode is None:
        with pytest.raises(UndecidedError, match=r"could not be read: no answer.*--iptables-mode"):
            decide(nft, legacy)
        return
    choice = decide(nft, legacy)
    assert choice.mode == mode
    assert len(choice.faults) == 1


def answering(monkeypatch: pytest.MonkeyPatch, code: int) -> list[Family]:
    asked: list[Family] = []

    def failing(_: object, family: Family) -> list[nf_tables.Chain]:
        asked.append(family)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(nf_tables, "chains", failing)
    monkeypatch.setattr(mode_module, "NetlinkSocket", contextlib.nullcontext)
    monkeypatch.setattr(mode_module, "_RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(mode_module, "find_command", lambda *_: "a command")
    monkeypatch.setattr(legacy_module, "table_names", lambda _: ())
    return asked


def test_a_kernel_that_does_not_answer_is_asked_again_and_then_nothing_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = answering(monkeypatch, errno.ETIMEDOUT)
    with pytest.raises(UndecidedError, match="nf_tables does not answer on netlink"):
        decide_mode("auto")
    assert len(asked) == 2
    (fault,) = decide_mode("nft").faults
    assert fault.blocking


def test_a_kernel_without_nf_tables_has_legacy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, errno.EINVAL)
    choice = decide_mode("auto")
    assert choice.mode == "legacy"
    assert not any(fault.blocking for fault in choice.faults)


SAVED = """\
# Generated by iptables-nft-save v1.8.9 (nf_tables)
*mangle
:PREROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:KUBE-NETPOL-FORWARD - [0:0]
:KUBE-POD-FW-abcdefghijklmn23 - [0:0]
:KUBE-POD-FW-ABCDEFGHIJKLMN23 - [0:0]
-A FORWARD -j KUBE-NETPOL-FORWARD
-A FORWARD -j ACCEPT
-A KUBE-NETPOL-FORWARD -j KUBE-POD-FW-abcdefghijklmn23
-A KUBE-POD-FW-abcdefghijklmn23 -j DROP
-A KUBE-POD-FW-ABCDEFGHIJKLMN23 -m comment --comment "-A FORWARD" -j DROP
COMMIT
# Warning: iptables-legacy tables present, use iptables-legacy-save to see them
"""


def test_saved_tables_are_parsed_and_our_own_rules_not_counted() -> None:
    tables = parse(SAVED)
    assert tables["filter"]["FORWARD"] == 2
    assert tables["mangle"] == {"PREROUTING": 0, "KUBE-KUBELET-CANARY": 0}
    assert evidence([tables]) == Evidence(hint="KUBE-KUBELET-CANARY", ours=True, rules=3)
    assert evidence([{}, tables]).rules == 3
    assert evidence([]) == NOTHING


def test_commands_that_are_not_installed_are_a_fault_of_their_family(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save"}

    def find(family: Family, mode: str, action: str) -> str | None:
        name = f"{'iptables' if family is Family.V4 else 'ip6tables'}-{mode}-{action}"
        return name if name in there else None

    monkeypatch.setattr(mode_module, "find_command", find)
    assert mode_module.missing_commands("nft", [Family.V4]) == []
    (fault,) = mode_module.missing_commands("nft", Family)
    assert fault.blocking
    assert fault.what == "not installed: ip6tables-nft-restore"
    assert "package iptables" in fault.remedy
