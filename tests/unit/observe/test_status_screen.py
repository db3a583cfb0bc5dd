"""The first screen of the status, and what is shown of one pod and one policy."""

from __future__ import annotations

import dataclasses
import io
import json

import msgspec
import pytest
from rich.console import Console

from agent.clock import moment
from agent.dataplane.backend import KernelView
from agent.dataplane.logged import Decided
from agent.history.change import Row, Subject, What
from agent.net import Direction
from agent.observe.cuts import CutPeer, CutsStatus, CutStatus
from agent.observe.flows.flow import End, Flow, Unlogged, as_text
from agent.observe.health import Health, as_dict, readyz
from agent.observe.history.text import time_text
from agent.observe.snapshot import Facts, PodStatus, StatusSnapshot, take
from agent.observe.status.policy import Peers, PolicyView, RuleView
from agent.observe.status.text import Around, checks_of, show_pod, show_policy, show_screen
from agent.observe.text import plain_console
from agent.policy.lower.lowered import LoweredProgram
from tests.unit.observe.conftest import NOW

ROW = Row(
    Subject.POLICY, What.ADDED, moment(NOW - 9), "shop/db", kernel=moment(NOW - 9), who="kubectl (Apply)"
)
FLOW = Flow(
    1,
    moment(NOW - 5),
    moment(NOW - 5),
    Decided.DENIED,
    Direction.INGRESS,
    "shop/db-0",
    "TCP",
    End("10.0.0.9", 40_000, "shop/web"),
    End("10.0.0.5", 5432, "shop/db-0"),
    "no rule of shop/db matches the peer",
)
POLICY = PolicyView(
    "shop/db",
    "pods[app=db]",
    ("shop/db-0",),
    None,
    (
        RuleView("ingress", 0, "from pods[app=api] port 5432/TCP", (Peers("pods app=api", 2),), 12, 1_500),
        RuleView("ingress", 1, "from pods[app=wbe] port any", (Peers("pods app=wbe", 0),), 0, 0, nobody=True),
        RuleView("ingress", 2, "from nobody port any", nobody=True),
    ),
    ("refused: spec.x: no",),
)


@pytest.fixture
def file() -> io.StringIO:
    return io.StringIO()


def console(file: io.StringIO) -> Console:
    return plain_console(file, width=200)


def screen(snapshot: StatusSnapshot, around: Around) -> str:
    file = io.StringIO()
    show_screen(snapshot, around, console(file))
    return file.getvalue()


def test_the_screen_says_all_at_a_glance(snapshot: StatusSnapshot) -> None:
    text = screen(snapshot, Around((), ("cache/NetworkPolicy: refused",), (ROW,), (FLOW,)))
    assert text.splitlines() == [
        "worker-1  ready  netpol-agent 0.1.0, up 2 h, iptables nft, IPv4, IPv6",
        "  cache/NetworkPolicy: refused",
        "",
        "Enforced 1 isolated pod (1 for ingress, 0 for egress), by 1 policy, 1 closed after their pods went",
        "Kernel 2 chains, 5 rules, 1 set; last change 30 s ago: ok; compared 2 s ago, 1 repair of drift "
        "(the last 2 s ago, changed by nft[b] (pid 5): chain X is gone and 1 more)",
        "Known 2 NetworkPolicy 1 refused, 12 Pod",
        "",
        "Last changes",
        "  2025-12-31 23:59:51.000Z  policy shop/db added by kubectl (Apply)",
        "",
        "Denied in the last minute 1 report, the last of them:",
        f"  {as_text(FLOW)}",
        "",
        "More: status --pod NS/NAME, --policy NS/NAME, --all; history; explain SRC DST PORT",
    ]


def test_connections_that_were_cut_are_told_of_the_node_and_of_the_pod(
    snapshot: StatusSnapshot, file: io.StringIO
) -> None:
    assert "Cut" not in screen(snapshot, Around())
    none = msgspec.structs.replace(snapshot, cuts=CutsStatus(0, {}, 0, 0))
    assert "Cut no connection since the agent started" in screen(none, Around()).splitlines()
    last = CutStatus(
        *(moment(NOW - 5), "shop/db-0", "ingress", 5, {"UDP": 1, "TCP": 4}),
        *(("TCP 10.0.0.9:40000 to 10.0.0.5:5432", "UDP 10.0.0.9:5353 to 10.0.0.5:53"), ("shop/db",)),
        ("policy shop/db",),
    )
    other = msgspec.structs.replace(last, at=moment(NOW - 60), pod="shop/web-0")
    some = msgspec.structs.replace(snapshot, cuts=CutsStatus(10, {"UDP": 2, "TCP": 8}, 7, 9, (last, other)))
    told = (
        "Cut 10 connections that a change forbids, 8 TCP, 2 UDP; 9 more are being ended; the last 5 s ago, "
        "ingress of shop/db-0, after a change of policy shop/db"
    )
    assert told in screen(some, Around()).splitlines()

    show_pod("shop/db-0", some, (), Around(), console(file))
    assert [line for line in file.getvalue().splitlines() if " cut, " in line] == [
        "  5 s ago: 5 connections cut, ingress (4 TCP, 1 UDP): TCP 10.0.0.9:40000 to 10.0.0.5:5432, "
        "UDP 10.0.0.9:5353 to 10.0.0.5:53 and 3 more, after a change of policy shop/db"
    ]


def test_connections_that_the_other_ends_policies_cut_are_told_of_the_pod_too(
    snapshot: StatusSnapshot, file: io.StringIO
) -> None:
    """A person asks about the client as often as about the server, on whichever node it is."""
    peers = (
        CutPeer("shop/web-0", 2, "TCP 10.0.0.9:40000 to 10.0.0.5:5432"),
        CutPeer("shop/cart-0", 1, "TCP b"),
    )
    cut = CutStatus(
        *(moment(NOW - 5), "shop/db-0", "ingress", 40, {"TCP": 40}, ("TCP c",), ("shop/db",)),
        ("policy shop/db",),
        peers,
    )
    some = msgspec.structs.replace(snapshot, cuts=CutsStatus(40, {"TCP": 40}, 40, 0, (cut,)))
    show_pod("shop/web-0", some, (), Around(), console(file))
    assert [line for line in file.getvalue().splitlines() if " cut " in line] == [
        "  5 s ago: 2 connections cut by policies of shop/db-0 for ingress: TCP 10.0.0.9:40000 to "
        "10.0.0.5:5432 and 1 more, after a change of policy shop/db"
    ]


def test_while_the_api_server_is_away_it_says_what_is_enforced(snapshot: StatusSnapshot) -> None:
    first, *others = snapshot.sources
    behind = msgspec.structs.replace(first, synced=True, current=False)
    told = "Changes made since the last contact are not enforced yet; all known before still is"
    assert told in screen(msgspec.structs.replace(snapshot, sources=(behind, *others)), Around())
    assert told not in screen(snapshot, Around())


def test_a_node_that_is_not_ready_says_why_first(facts: Facts) -> None:
    snapshot = take(
        dataclasses.replace(facts, ready=False, applied=False), LoweredProgram(), KernelView({}, {})
    )
    lines = screen(snapshot, Around(("cache/Pod: not synced yet",))).splitlines()
    assert lines[0].startswith("worker-1  not ready")
    assert lines[1] == "  cache/Pod: not synced yet"
    assert any(line.startswith("Kernel not touched yet") for line in lines)


def test_what_could_not_be_asked_is_left_out_and_old_denials_too(snapshot: StatusSnapshot) -> None:
    assert "Last changes" not in screen(snapshot, Around())
    assert "Denied" not in screen(snapshot, Around())
    old = msgspec.structs.replace(FLOW, last=moment(NOW - 61))
    assert "Denied in the last minute nothing was logged" in screen(snapshot, Around(denied=(old,)))
    unlogged = Unlogged(moment(NOW - 3), 1_000, "the limit was reached", "shop/db-0", Direction.INGRESS)
    assert "not logged: 1000 packets" in screen(snapshot, Around(denied=(old, unlogged)))


def test_the_checks_are_those_of_readyz() -> None:
    health = Health(NOW, NOW, {}, applied=False)
    failed, odd = checks_of(json.dumps(as_dict(readyz(health))).encode())
    assert failed == ("cache: no source has started", "kernel: the first apply is not in the kernel yet")
    assert odd == ()


def test_a_policy_says_which_rules_are_used_and_which_match_nobody(file: io.StringIO) -> None:
    show_policy(POLICY, (), console(file))
    assert file.getvalue().splitlines() == [
        "shop/db  selects pods[app=db]",
        "  isolates for ingress: shop/db-0",
        "  refused: spec.x: no",
        "  ingress[0] from pods[app=api] port 5432/TCP  (12 packets, 1.5 kB)",
        "      2 members: pods app=api",
        "  ingress[1] from pods[app=wbe] port any  (unused since it was written)",
        "      nobody now: pods app=wbe",
        "  ingress[2] from nobody port any  (not in the kernel)",
        "      it can match no packet now",
        "",
        "Last changes none is known",
    ]


def test_a_rule_that_was_seen_to_grow_says_when(file: io.StringIO) -> None:
    used = RuleView("ingress", 0, "from all pods", packets=2, bytes=120, last_hit=NOW)
    show_policy(PolicyView("shop/db", "all pods", (), None, (used,)), None, console(file))
    assert (
        file.getvalue()
        .splitlines()[-1]
        .endswith(f"(2 packets, 120 B, last seen to grow at {time_text(moment(NOW))})")
    )


def test_a_policy_that_selects_nothing_here_or_allows_nothing_says_so(file: io.StringIO) -> None:
    show_policy(PolicyView("shop/deny", "all pods", (), (), ()), None, console(file))
    assert file.getvalue().splitlines() == [
        "shop/deny  selects all pods",
        "  isolates for ingress: no pod of this node",
        "  isolates for egress: no pod of this node",
        "  allows nothing for ingress",
        "  allows nothing for egress",
    ]


def test_a_pod_is_shown_with_its_policies(snapshot: StatusSnapshot, file: io.StringIO) -> None:
    show_pod("shop/db-0", snapshot, [POLICY], Around(rows=(ROW,)), console(file))
    lines = file.getvalue().splitlines()
    assert lines[:3] == ["shop/db-0  10.0.0.5, fd00::5", "  ingress: isolated by shop/db", "  egress: open"]
    assert "  ingress[0] from pods[app=api] port 5432/TCP  (12 packets, 1.5 kB)" in lines
    assert lines[-1].endswith("policy shop/db added by kubectl (Apply)")


@pytest.mark.parametrize(
    ("rules", "note"),
    [
        ((), "no egress rule allows DNS (UDP port 53)"),
        ((RuleView("egress", 0, "to all pods port 53/TCP"),), "no egress rule allows DNS (UDP port 53)"),
        ((RuleView("egress", 0, "to pods", nobody=True, dns=True),), "for DNS (UDP port 53) is nobody now"),
        ((RuleView("egress", 0, "to pods", dns=True),), ""),
    ],
)
def test_a_pod_that_can_look_up_no_name_has_a_note(
    snapshot: StatusSnapshot, file: io.StringIO, rules: tuple[RuleView, ...], note: str
) -> None:
    pod = PodStatus("shop/db-0", ("10.0.0.5",), None, ("shop/out",))
    policy = PolicyView("shop/out", "all pods", None, ("shop/db-0",), rules)
    found = msgspec.structs.replace(snapshot, pods=(pod,))
    show_pod("shop/db-0", found, [policy], Around(), console(file))
    notes = [line for line in file.getvalue().splitlines() if "note:" in line]
    assert (len(notes), note in "".join(notes)) == (bool(note), True)
    # Where not all of its policies were asked about, nothing is said.
    quiet = io.StringIO()
    show_pod("shop/db-0", found, [], Around(), console(quiet))
    assert "note:" not in quiet.getvalue()


def test_a_pod_that_nothing_isolates_is_said_to_be_open(snapshot: StatusSnapshot, file: io.StringIO) -> None:
    show_pod("shop/none", snapshot, [], Around(), console(file))
    assert file.getvalue().startswith("shop/none  no policy on this node isolates it")
    assert "explain SOURCE shop/none PORT says which do not select it" in file.getvalue()


@pytest.mark.parametrize(
    ("generation", "since", "said"),
    [
        (3, NOW - 60, "proved to be enforced here (generation 3) since "),
        (0, NOW - 60, "proved to be enforced here (as it is now) since "),
        (3, None, "not proved yet to be enforced here (generation 3)"),
    ],
)
def test_a_policy_says_at_which_generation_it_is_proved(
    generation: int, since: float | None, said: str, file: io.StringIO
) -> None:
    policy = PolicyView(
        "shop/db", "all pods", ("shop/db-0",), None, (), generation=generation, proved_since=since
    )
    show_policy(policy, None, console(file))
    assert said in file.getvalue()


def test_of_a_policy_that_isolates_nobody_here_nothing_is_said_of_proofs(file: io.StringIO) -> None:
    show_policy(PolicyView("shop/db", "all pods", (), (), ()), None, console(file))
    assert "proved" not in file.getvalue()
