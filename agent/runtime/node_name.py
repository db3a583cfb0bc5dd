"""Whether any pod names this node; until one does, the node's name may be mistyped."""

from __future__ import annotations

from agent import log
from agent.fault import Fault
from agent.policy.engine import Engine
from agent.words import some

_log = log.get(__name__)

REMEDY = "set --node-name (or NODE_NAME) to what spec.nodeName of this node's pods says"


def no_pod_names(node: str) -> str:
    """Say that no pod names a node."""
    return f"no pod names the node {node}"


class NodeName:
    """Used by the main loop's thread, but for :attr:`fault`, which any thread may read."""

    def __init__(self, node: str, engine: Engine) -> None:
        self._node = node
        self._engine = engine
        self.fault: Fault | None = None

    def named(self) -> bool:
        """Whether any pod names this node. Costs a scan of all pods."""
        return self._node in self._engine.nodes()

    def look(self) -> None:
        """See whether any pod names this node. Where there are no pods, nothing speaks against the name."""
        nodes = self._engine.nodes()
        if self._node in nodes or not nodes:
            self.fault = None
            return
        fault = Fault(
            f"{no_pod_names(self._node)}, so nothing is enforced; pods name: {some(nodes)}",
            REMEDY,
            blocking=False,
        )
        if fault != self.fault:
            _log.warning("no pod of this node", detail=fault.what, remedy=fault.remedy)
        self.fault = fault
