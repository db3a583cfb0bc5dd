"""A node with two pods, and an agent that reads manifests: what the node's other software does to it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable

from agent.net import Family, Protocol
from tests.lab.cluster import http_get, wait_until
from tests.lab.lab import Host
from tests.lab.node import Layout, Mode, Pod
from tests.lab.probe import Flow, Verdict
from tests.lab.standing import Standing
from tests.patience import PATIENCE

PORT = 80
OTHER_PORT = 81

_POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {0.name}, labels: {{app: {0.name}}}}}
spec: {{nodeName: {0.node.name}}}
status: {{phase: Running, podIPs: [{{ip: {0.v4}}}, {{ip: "{0.v6}"}}]}}
"""
DENY_ALL = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"""
ALLOW_PORT = f"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  ingress: [{{ports: [{{port: {PORT}}}]}}]
"""


class Guarded(Standing):
    """The node, its pods ``client`` and ``web``, a host ``out`` outside, and the agent; a context manager."""

    def __init__(self, layout: Layout | str, mode: Mode | str) -> None:
        super().__init__("guarded", layout, mode, forked=True)
        with contextlib.ExitStack() as stack:
            stack.push(self)
            self.client: Pod = self.lab.pod(self.node, "client")
            self.web: Pod = self.lab.pod(self.node, "web")
            self.out: Host = self.lab.host("out")
            self.lab.serve(self.web, tcp=(PORT, OTHER_PORT), udp=(PORT, OTHER_PORT))
            self.say("pods", "---\n".join(_POD.format(pod) for pod in (self.client, self.web)))
            stack.pop_all()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the agent on the node, with the node's own lock, and wait for its end."""
        output = self.node.directory / "output"
        with output.open("wb") as file:
            process = self.node.fork("agent", *arguments, output=file)
        return subprocess.CompletedProcess(process.args, process.wait(PATIENCE), output.read_text())

    def readyz(self) -> str:
        return http_get(self.node, "/readyz")[1]

    def verdicts(
        self,
        port: int = PORT,
        protocol: Protocol = Protocol.TCP,
        sources: Iterable[Pod | Host] = (),
        families: Iterable[Family] = tuple(Family),
    ) -> set[Verdict]:
        """Return what becomes of new connections to ``web``, from the client unless others are given."""
        flows = [
            Flow(source, self.web.address(family), protocol, port)
            for source in (tuple(sources) or (self.client,))
            for family in families
        ]
        return set(self.lab.probe(flows))

    def wait_for(self, verdict: Verdict, port: int = PORT, timeout: float = PATIENCE) -> None:
        """Wait until all new connections from the client to a port of ``web`` end so."""
        wait_until(lambda: self.verdicts(port) == {verdict}, timeout)
