"""What a person is shown."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.markup import escape
from rich.table import Table

from agent.dataplane.backend import KernelView
from agent.fault import Fault
from agent.kube.model import Key, Kind
from agent.net import Direction
from agent.observe.links import LinkCounts
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.observe.text import duration, plain_console, show
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import network_policies
from agent.sources.source import SyncState


def shown(snapshot: StatusSnapshot, force_terminal: bool | None = None) -> str:
    file = io.StringIO()
    show(snapshot, plain_console(file, width=160, force_terminal=force_terminal))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_everything_is_there(snapshot: StatusSnapshot) -> None:
    text = shown(snapshot)
    assert text.startswith("worker-1  ready  netpol-agent 0.1.0, up 2 h\niptables nft (kubelet's hint chain")
    assert "last apply 30 s ago, took 4 ms, 3 writes: ok" in text
    assert "last error 10 min ago: iptables-restore: line 4 failed" in text
    assert "drift checked 2 s ago, 1 repair\n" in text
    last = "changed from outside by nft[b] (pid 5): chain X is gone; chain Y is gone\n"
    assert f"last repair 2 s ago: the kernel was {last}" in text
    for words in ("shop/db-0", "fd00::5", "open", "KUBE-SRC-4-abc", "pods app=web in namespace shop"):
        assert words in text
    for words in (
        "(deleted, still closed)",
        "10.0.0.9",
        "connection refused",
        "refused shop/x: spec.ingres: no",
    ):
        assert words in text
    assert "sysctl -w net.ipv6.conf.all.forwarding=1" in text


def test_policies_over_budget_are_beside_the_others(
    facts: Facts, program: LoweredProgram, view: KernelView
) -> None:
    (isolated,) = program.pods
    nothing = program.pods[isolated]._replace(tiers=network_policies(()))
    program.pods[isolated._replace(direction=Direction.EGRESS)] = nothing
    closed = {
        isolated: [Key("shop", "big")],
        isolated._replace(direction=Direction.EGRESS): [Key("shop", f"big-{number}") for number in range(5)],
    }
    text = shown(take(dataclasses.replace(facts, closed_by_budget=closed), program, view))
    lines = text[text.index("Isolated pods") :].splitlines()[2:7]
    assert [line.partition("shop/db ")[2] + line.partition("fd00::5")[2] for line in lines[:2]] == [
        " " * 16 + "closed: no policy in force",
        "    shop/big (over budget)  shop/big-0 (over budget)",
    ]
    assert lines[4].strip() == "and 2 more over budget"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (LinkCounts(1), "known for the isolated pod"),
        (LinkCounts(3), "known for all 3 isolated pods"),
        (
            LinkCounts(0, 1, ("x/a",)),
            "not known for the isolated pod x/a, which is judged by its addresses alone",
        ),
        (
            LinkCounts(0, 2, ("x/a", "x/b")),
            "not known for any of the 2 isolated pods, x/a, x/b: they are judged by their addresses alone",
        ),
        (
            LinkCounts(2, 7, ("x/a", "x/b")),
            "known for 2 of 9 isolated pods; not for x/a, x/b, ...: they are judged by their addresses alone",
        ),
        (LinkCounts(), ""),
    ],
)
def test_of_how_many_pods_the_link_is_known(counts: LinkCounts, said: str) -> None:
    assert str(counts) == said


def test_a_fault_that_stands_for_several_is_not_told_twice(facts: Facts) -> None:
    lines = ("a.yaml: line 1: no", "b.yaml: line 2: no")
    state = SyncState(True, 1, 0.0, facts.now, f"{lines[0]} (and 1 more)", lines)
    states = {Kind.POD: state, Kind.POLICY: state}
    text = shown(take(dataclasses.replace(facts, states=states), LoweredProgram(), KernelView({}, {})))
    assert [text.count(line) for line in lines] == [1, 1]


def test_no_colour_but_on_a_terminal(snapshot: StatusSnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in shown(snapshot)
    assert "\x1b[" in shown(snapshot, force_terminal=True)


def test_nothing_enforced_is_said(facts: Facts) -> None:
    text = shown(take(dataclasses.replace(facts, ready=False), LoweredProgram(), KernelView({}, {})))
    assert "not ready" in text
    assert "No pod of this node is isolated" in text


def test_what_the_kernel_held_before_is_not_said_to_be_open(facts: Facts) -> None:
    text = shown(take(dataclasses.replace(facts, applied=False), LoweredProgram(), KernelView({}, {})))
    assert "what was in it before this agent started is still enforced" in text
    assert "every packet is allowed" not in text


def test_text_from_objects_is_never_markup(facts: Facts, program: LoweredProgram, view: KernelView) -> None:
    fault = Fault("[red]chain[/nonsense] is gone from fd00::100:1", "look at [that]")
    text = shown(take(dataclasses.replace(facts, faults=(fault,)), program, view))
    assert "[red]chain[/nonsense] is gone from fd00::100:1" in text
    assert "look at [that]" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0042, "4 ms"),
        (-1, "0 ms"),
        (1, "1 s"),
        (119, "119 s"),
        (600, "10 min"),
        (7_300, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_that_objects_hold_reaches_the_terminal_as_an_order(terminal: bool) -> None:
    written = io.StringIO()
    console = plain_console(written, width=80, force_terminal=terminal)
    evil = "evil\x1b]0;title\x07\x1b[2J\x9b31m"
    table = Table("name", title=evil)
    table.add_row(escape(evil))
    console.print(f"[bold]{escape(evil)}[/]", soft_wrap=True)
    console.print(table)
    text = written.getvalue()
    assert text.count("evil") == 3
    # What the console itself orders is the colour of its own text.
    assert re.findall(r"\x1b(?!\[[0-9;]*m)|\x9b|\x07", text) == []
