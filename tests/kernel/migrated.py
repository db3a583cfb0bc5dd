"""A node on which kube-router's firewall was in force, with pods, and ``netpol-agent migrate`` run there.

What kube-router last knew and what the policies are today differ, so that it shows which of the two judges:

====================  ===========  =======
connection            kube-router  today
====================  ===========  =======
client to web         allowed      allowed
stale to web          allowed      denied
novel to web          denied       allowed
stranger to web       denied       denied
caged to novel        allowed      allowed
caged to stranger     allowed      denied
caged to client       denied       denied
novel to reopened     denied       allowed
====================  ===========  =======
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from agent.dataplane.iptables import cleanup as leftovers
from agent.dataplane.iptables.variant import MODES
from agent.net import Family, Protocol
from tests.kernel import kube_router
from tests.kernel.kube_router import KnownPod, KnownPolicy
from tests.lab.forking import Forked
from tests.lab.lab import Lab
from tests.lab.node import Layout, Mode, Pod
from tests.lab.probe import Flow, Verdict
from tests.patience import PATIENCE

# In this order kube-router judges: a mark that came with a packet would meet the destination's chain first.
PODS = ("reopened", "web", "client", "stale", "novel", "stranger", "caged")
PORT = 5353
WAYS = {
    "client web": (True, True),
    "stale web": (True, False),
    "novel web": (False, True),
    "stranger web": (False, False),
    "caged novel": (True, True),
    "caged stranger": (True, False),
    "caged client": (False, False),
    "novel reopened": (False, True),
}
"""Source and destination to whether kube-router allowed it, and whether it is allowed today."""

_POLICIES = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-in}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [client, novel]}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: caged-out}
spec:
  podSelector: {matchLabels: {app: caged}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: novel}}}]}]
---
# Allowed out by a mark of ours: kube-router's rules must not take it for theirs.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: novel-out}
spec:
  podSelector: {matchLabels: {app: novel}}
  policyTypes: [Egress]
  egress: [{}]
"""
_POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: worker, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIPs: [{{ip: {v4}}}, {{ip: "{v6}"}}]}}
"""


class Ended(NamedTuple):
    """How a command ended: its exit code, what it printed, and its log."""

    code: int
    output: str
    log: str

    def json(self) -> Any:
        return json.loads(self.output)


class OldNode:
    """The node, its pods and the manifests of today. A context manager."""

    def __init__(self, layout: Layout, mode: Mode, *, k3s: bool = False) -> None:
        self.lab = Lab()
        try:
            self.node = self.lab.node("worker", layout, mode)
            self.pods: dict[str, Pod] = {name: self.lab.pod(self.node, name) for name in PODS}
            self.manifests = self.node.directory / "manifests"
            self.manifests.mkdir(parents=True)
            text = "".join(_POD.format(name=n, v4=p.v4, v6=p.v6) for n, p in self.pods.items())
            (self.manifests / "today.yaml").write_text(_POLICIES + text)
            known = {n: KnownPod(n, {f: p.address(f) for f in Family}) for n, p in self.pods.items()}
            self._known = [*known.values()]
            self._policies = [
                KnownPolicy("web-in", "dst", [known["web"]], [known["client"], known["stale"]]),
                KnownPolicy("reopened-in", "dst", [known["reopened"]], [known["web"]]),
                KnownPolicy("caged-out", "src", [known["caged"]], [known["novel"], known["stranger"]]),
            ]
            self.k3s = k3s
            for pod in self.pods.values():
                self.lab.serve(pod, udp=[PORT])
            self.node.run("ipset", "restore", stdin=kube_router.SERVICE_SETS)
            self.node.iptables_restore(Family.V4, kube_router.SERVICE_RULES)
        except BaseException:
            self.lab.close()
            raise

    def __enter__(self) -> OldNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.close()

    def kube_router_syncs(self, version: str = "1") -> None:
        """Write what kube-router's firewall writes in a sync; what is ours under its prefixes goes."""
        self.node.run("ipset", "-exist", "restore", stdin=kube_router.sets(self._policies))
        tables = kube_router.filter_tables(self._known, self._policies, version, k3s=self.k3s)
        for family, theirs in tables.items():
            tool = f"{'iptables' if family is Family.V4 else 'ip6tables'}-{self.node.mode}"
            saved = self.node.run(f"{tool}-save", "-t", "filter").splitlines()
            foreign = re.compile(r"KUBE-(?:POD-FW|NWPLCY|ROUTER-(?:INPUT|FORWARD|OUTPUT))\b|KUBE-ROUTER rule")
            kept = [line for line in saved if line.startswith((":", "-A")) and not foreign.search(line)]
            head, _, rest = theirs.partition("\n")
            self.node.run(f"{tool}-restore", stdin="\n".join([head, *kept, rest]))

    def kube_router_goes_first(self) -> None:
        """Move its hooks to the front, as a sync does before anything else."""
        for family in Family:
            for chain in kube_router.TOP:
                rule = kube_router.hook(chain)
                lines = ["*filter", f"-D {chain} {rule}", f"-I {chain} 1 {rule}", "COMMIT", ""]
                self.node.iptables_restore(family, "\n".join(lines))

    def command(self, *arguments: str, name: str = "worker", killed: str = "") -> Ended:
        """Run ``migrate`` to its end; ``killed``: see :mod:`tests.kernel.killed`."""
        module = ["tests.kernel.killed", killed] if killed else ["agent"]
        command = [*module, "migrate", "--manifests", str(self.manifests), "--node-name", name]
        command += ["--state-dir", str(self.node.directory / "state"), "--log-format", "console"]
        return self.ended(self.started(*command, "--iptables-mode", self.node.mode, *arguments))

    def cleanup(self) -> None:
        """Remove everything of the agent's."""
        with self.node.netns.entered():
            for mode in MODES:
                assert leftovers.remove(mode, Family) == []
            assert leftovers.remove_sets() == []

    def started(self, module: str, *arguments: str) -> Forked:
        """Start a command of the agent on the node; its log and output go to files there."""
        with self._output.open("wb") as output, self._log.open("wb") as log:
            return self.node.fork(module, *arguments, output=output, errors=log)

    def ended(self, process: Forked) -> Ended:
        """Wait for the end of what was started last."""
        return Ended(process.wait(PATIENCE), self._output.read_text(), self.log())

    def log(self) -> str:
        """Return the log of what was started last, as far as it has come."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def _output(self) -> Path:
        return self.node.directory / "output"

    @property
    def _log(self) -> Path:
        return self.node.directory / "log"

    def web(self, nft_family: str) -> str:
        """Return the address of web in a family as nft calls it."""
        return self.pods["web"].address(Family.V4 if nft_family == "ip" else Family.V6)

    def flows(self, ways: Iterable[str]) -> list[Flow]:
        """Return ways, such as ``client web``, as flows in both families."""
        pairs = [way.split() for way in ways]
        return [
            Flow(self.pods[source], self.pods[destination].address(family), Protocol.UDP, PORT)
            for source, destination in pairs
            for family in Family
        ]

    def allowed(self) -> dict[str, bool]:
        """Try every way with new connections; a way must go the same in both families."""
        verdicts = self.lab.probe(self.flows(WAYS))
        found = [verdict is Verdict.ALLOWED for verdict in verdicts]
        assert found[::2] == found[1::2], dict(
            zip(WAYS, zip(found[::2], found[1::2], strict=True), strict=True)
        )
        return dict(zip(WAYS, found[::2], strict=True))

    def others(self) -> str:
        """Return everything in the kernel that is neither the agent's nor kube-router's firewall's."""
        mode = self.node.mode
        texts = [self.node.run(f"{tool}-{mode}-save") for tool in ("iptables", "ip6tables")]
        lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
        ours = re.compile(
            r"KUBE-(?:NETPOL|PODS|NWRULE|POD-FW|NWPLCY|ROUTER-(?:INPUT|FORWARD|OUTPUT))|KUBE-ROUTER rule"
        )
        kept = [re.sub(r"\[\d+:\d+\]", "", line) for line in lines if not ours.search(line)]
        sets = self.node.run("ipset", "save").splitlines()
        mine = re.compile(r"(?:inet6:)?KUBE-")
        return "\n".join(
            [*kept, *(re.sub(r" initval \S+", "", s) for s in sets if not mine.match(s.split()[1]))]
        )

    def left(self) -> str:
        """Return the rules and sets of kube-router's firewall that are there."""
        mode = self.node.mode
        texts = [self.node.run(f"{tool}-{mode}-save", "-t", "filter") for tool in ("iptables", "ip6tables")]
        texts.append(self.node.run("ipset", "list", "-n"))
        theirs = re.compile(
            "KUBE-ROUTER-(?:INPUT|FORWARD|OUTPUT)|KUBE-ROUTER rule|KUBE-(?:POD-FW|NWPLCY|SRC|DST)-[A-Z2-7]{6}"
        )
        return "\n".join(line for text in texts for line in text.splitlines() if theirs.search(line))


def by_kube_router() -> dict[str, bool]:
    """Return what is allowed when kube-router's rules judge alone."""
    return {way: theirs for way, (theirs, _) in WAYS.items()}


def by_both() -> dict[str, bool]:
    """Return what is allowed when both judge."""
    return {way: theirs and ours for way, (theirs, ours) in WAYS.items()}


def by_us() -> dict[str, bool]:
    """Return what is allowed when this agent's rules judge alone."""
    return {way: ours for way, (_, ours) in WAYS.items()}
