"""``netpol-agent status --cluster``: every agent asked through the API server."""

from __future__ import annotations

from typing import NamedTuple

from agent.decoding import UndecodableError
from agent.observe.snapshot import decode
from agent.observe.status.cluster import NodeLine, lines_without_agent
from agent.sources.apiserver.agents import AgentsError, Told, ask_all, find, nodes
from agent.sources.apiserver.connect import Connection
from agent.words import one_line


class ClusterStatus(NamedTuple):
    """A line for each node, and what could not be asked."""

    lines: list[NodeLine]
    notes: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether every node that is known has an agent that is ready."""
        return bool(self.lines) and all(line.ready for line in self.lines)


def ask(kubeconfig: str | None, context: str | None, namespace: str, port: int) -> ClusterStatus:
    """Ask every agent whose pod is in a namespace, on a port. Raises AgentsError where none can be found."""
    connection = Connection(kubeconfig, context)
    pods = find(connection, namespace)
    lines = [_line(told) for told in ask_all(connection, namespace, pods, port)]
    notes: tuple[str, ...] = ()
    try:
        lines += lines_without_agent(nodes(connection), lines)
    except AgentsError as error:
        notes = (f"nodes without an agent are not shown: {error}",)
    if not lines:
        raise AgentsError(f"no pod of an agent is in namespace {namespace}: --agents names another")
    return ClusterStatus(sorted(lines, key=lambda line: line.node), notes)


def _line(told: Told) -> NodeLine:
    pod = told.pod
    if told.error:
        return NodeLine(pod.node, pod.name, pod.ready, pod.restarts, error=told.error)
    try:
        status = decode(told.body)
    except UndecodableError as error:
        why = f"its answer is that of another version: {one_line(str(error))}"
        return NodeLine(pod.node, pod.name, pod.ready, pod.restarts, error=why)
    return NodeLine(pod.node, pod.name, status.ready, pod.restarts, status)
