"""Agents that are replaced by those of another version, and the traffic that goes on meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from agent.dataplane.iptables.rules import names
from agent.observe.history.route import decode
from tests.kernel.stream import Stream
from tests.lab.backends import IPTABLES
from tests.lab.cluster import AgentProcess, http_get
from tests.lab.lab import Lab, flows
from tests.lab.node import Node, Pod
from tests.lab.probe import Verdict
from tests.patience import PATIENCE

RATE = 200
"""Packets of a stream a second, each of them a new connection."""

UDP_PORTS = (5000, 5001)
"""What the streams go to, where policies have to allow both: first what is allowed, then what is denied."""

Start = Callable[[Node, Path], AgentProcess]
"""Starts the agent of a node from the code in a directory."""

Pairs = Iterable[tuple[Pod, Pod]]


class Traffic:
    """New connections all the time, and what did not go as it should; a context manager.

    Between pairs of pods that are allowed, and pairs that are denied, TCP connections to port 80 are opened
    again and again, in both families. Between the first pair of each there is also a stream of UDP packets.
    """

    def __init__(self, lab: Lab, allowed: Pairs, denied: Pairs) -> None:
        allowed, denied = list(allowed), list(denied)
        self._lab = lab
        self._expected = {
            flow: verdict
            for pairs, verdict in ((allowed, Verdict.ALLOWED), (denied, Verdict.DENIED))
            for source, target in pairs
            for flow in flows(source, target, tcp=[80])
        }
        self._streams = [
            Stream(*pairs[0], number, RATE, burst=1)
            for pairs, number in zip((allowed, denied), UDP_PORTS, strict=True)
        ]
        self._stack = contextlib.ExitStack()
        self.wrong: list[str] = []
        self.tried = 0

    def __enter__(self) -> Traffic:
        for stream in self._streams:
            self._stack.enter_context(stream)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        passing, stopped = self._streams
        self.tried += passing.sent + stopped.sent
        if passing.arrived != passing.sent:
            self.wrong.append(f"{passing.sent - passing.arrived} of {passing.sent} allowed packets were lost")
        if stopped.arrived:
            self.wrong.append(f"{stopped.arrived} of {stopped.sent} denied packets arrived")

    def until(self, holds: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Try every connection until a condition holds, once at least. Raises TimeoutError."""
        end = time.monotonic() + timeout
        while True:
            for flow, verdict in self._lab.check(self._expected).items():
                self.wrong.append(f"{flow} is {verdict}")
            self.tried += len(self._expected)
            if holds():
                return
            if time.monotonic() > end:
                raise TimeoutError(f"not within {timeout} s")
            time.sleep(0.01)

    def replace(self, agents: dict[str, AgentProcess], start: Start, code: Path) -> None:
        """Replace agents one after the other, as a rollout does: each is stopped, and another is started."""
        for name, old in agents.items():
            old.process.terminate()
            self.until(lambda old=old: old.process.poll() is not None)  # type: ignore[misc]
            assert old.process.returncode == 0, old.tail()
            new = agents[name] = start(old.node, code)
            self.until(lambda new=new: is_ready(new))  # type: ignore[misc]


def is_ready(agent: AgentProcess) -> bool:
    """Whether an agent says that it is ready; AssertionError when it has ended."""
    assert agent.process.poll() is None, agent.tail()
    with contextlib.suppress(OSError, http.client.HTTPException):
        return http_get(agent.node, "/readyz")[0] == 200
    return False


def held(node: Node) -> Mapping[str, object]:
    """Return the agent's rules and sets in a node's kernel, but for what packets have put into sets."""
    kind = IPTABLES[node.mode]
    with node.netns.entered():
        rules = {
            f"{int(family)} {c}": r for family, chains in kind.chains().items() for c, r in chains.items()
        }
        sets = {name: m for name, m in kind.sets().items() if not names.changes_by_itself(name)}
    return {**rules, **sets}


def told(agent: AgentProcess) -> set[str]:
    """Return the names of the policies that an agent's history has."""
    status, body = http_get(agent.node, "/history?limit=1000")
    assert status == 200, body
    return {row.object for row in decode(body.encode()).rows if row.subject.value == "policy"}
