"""A node of a lab of its own, and an agent on it that reads manifests."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.closing import Closing
from tests.lab.cluster import AgentProcess
from tests.lab.lab import Lab
from tests.lab.node import Layout, Mode, Node


class Standing(Closing):
    """A lab with one node; the agent is started and ended as often as one likes, and reads ``manifests``.

    ``forked``: how it is started unless :meth:`start` is told otherwise, as AgentProcess says.
    """

    def __init__(self, name: str, layout: Layout | str, mode: Mode | str, *, forked: bool = False) -> None:
        self._forked = forked
        with contextlib.ExitStack() as stack:
            self.lab = stack.enter_context(Lab())
            self.node: Node = self.lab.node(name, layout, mode)
            self.manifests = self.node.directory / "manifests"
            self.manifests.mkdir()
            self._agent: AgentProcess | None = None
            stack.callback(self.stop, signal.SIGKILL)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Kill the agent, and take the lab down."""
        self._stack.close()

    def say(self, name: str, said: str | Iterable[Mapping[str, Any]]) -> None:
        """Have a manifest say this text or hold these objects, at once and whole."""
        part = self.manifests / f".{name}"
        # JSON is YAML, too.
        part.write_text(said if isinstance(said, str) else "\n---\n".join(map(json.dumps, said)))
        part.rename(self.manifests / f"{name}.yaml")

    def unsay(self, name: str) -> None:
        """Remove a manifest."""
        (self.manifests / f"{name}.yaml").unlink()

    @property
    def agent(self) -> AgentProcess:
        assert self._agent is not None
        return self._agent

    def start(
        self,
        *arguments: str,
        ready: bool = True,
        forked: bool | None = None,
        module: Sequence[str] = ("agent",),
    ) -> AgentProcess:
        """Start the agent, which must not run, and wait until it is ready. ``module``: what is run of it."""
        forked = self._forked if forked is None else forked
        arguments = ("--manifests", str(self.manifests), *arguments)
        self._agent = AgentProcess(self.node, *arguments, module=module, forked=forked)
        if ready:
            self._agent.wait_ready()
        return self._agent

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the agent, if it runs."""
        if self._agent is not None:
            self._agent.stop(number)
