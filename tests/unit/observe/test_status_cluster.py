"""A line for each node, for people."""

from __future__ import annotations

import io

from agent.observe.snapshot import StatusSnapshot
from agent.observe.status.cluster import NodeLine, lines_without_agent, show
from agent.observe.text import plain_console


def shown(lines: list[NodeLine], *notes: str) -> list[str]:
    file = io.StringIO()
    show(lines, notes, plain_console(file, width=160))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_node_that_answered_has_its_figures(snapshot: StatusSnapshot) -> None:
    lines = shown([NodeLine("worker-1", "netpol-agent-x", True, 0, snapshot)])
    cells = lines[1].split()
    assert cells[:5] == ["worker-1", "ready", "0.1.0", "1", "1"]
    assert lines[1].endswith("30 s ago")
    assert "1 of 1 nodes ready" in lines
    assert "worker-1: IPv6 forwarding is off" in lines


def test_one_trouble_of_many_nodes_is_told_once_with_some_of_them() -> None:
    nodes = [
        NodeLine(f"n{number}", f"agent-{number}", True, error=f"pods agent-{number} is forbidden")
        for number in range(7)
    ]
    lines = shown(nodes, "nodes are not shown")
    assert lines[-2:] == ["n0, n1, n2, n3, n4 and 2 more: pods the pod is forbidden", "nodes are not shown"]
    assert lines[1].split() == ["n0", "ready,", "by", "its", "kubelet"]


def test_a_node_without_an_agent_is_not_ready() -> None:
    (bare,) = lines_without_agent(["n1", "n2"], [NodeLine("n1", "agent-1", True)])
    assert (bare.node, bare.ready) == ("n2", False)
    assert "no agent" in shown([bare])[1]
