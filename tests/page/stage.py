"""A page of a node that is made up: an engine with objects, and a kernel of a few rules; no root is needed.

What a real agent with a real kernel serves is in ``tests/cluster/test_page.py``.
"""

from __future__ import annotations

import datetime
import functools
import socket
import time
from collections.abc import Iterable, Sequence

from agent.dataplane.backend import KernelView
from agent.dataplane.logged import Decided
from agent.dataplane.trace import CountedRule, Fate, Packet, Trace
from agent.fault import Fault
from agent.history.change import Effect, Row, Subject, What
from agent.history.query import Query
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Object, Peer, Port, Rule
from agent.net import Direction, Family
from agent.observe.cuts import CutsStatus
from agent.observe.explain.ends import Inventory
from agent.observe.explain.live import Explainer
from agent.observe.flows.between import denied, denied_between
from agent.observe.flows.flow import End, Flow, Nearest, as_text
from agent.observe.flows.hub import Flows
from agent.observe.flows.routes import flow_routes
from agent.observe.health import Health
from agent.observe.hits import Hits
from agent.observe.page.site import page_routes
from agent.observe.page.sources import Sources
from agent.observe.routes import Route
from agent.observe.server import StatusServer
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.policy.engine import Engine
from agent.sources.source import SyncState
from tests.build import labelled, pod, upsert
from tests.clock import FakeClock
from tests.patience import PATIENCE

HERE = "here"
HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
NOW = 1_800_000_000.0


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def flow(number: int, source: str = "shop/web", why: str = "") -> Flow:
    return Flow(
        number=number,
        first=moment(NOW + number),
        last=moment(NOW + number),
        verdict=Decided.DENIED,
        direction=Direction.INGRESS,
        pod="shop/db",
        protocol="TCP",
        source=End("10.0.0.1", 40000 + number, pod=source, namespace=source.partition("/")[0]),
        destination=End("10.0.0.3", 5432, pod="shop/db", namespace="shop"),
        why=why or f"{source} does not match app=api",
        policies=("shop/api-to-db",),
        nearest=Nearest("shop/api-to-db", 0, peer=False, port=True, why="does not match app=api"),
    )


class MadeUpKernel:
    """Counts one more packet each time that it is looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def trace(self, direction: Direction, pod: Key, packet: Packet) -> Trace:
        del packet
        if direction is Direction.EGRESS:
            return Trace(Fate.NOT_JUDGED, "it is in no set")
        rule = CountedRule("KUBE-POD-FW-x", f'--comment "no {direction} policy allows it: pod {pod}"', 7, 420)
        return Trace(Fate.DENIED, "", rule)

    def rules_of(
        self, direction: Direction, policy: Key, family: Family
    ) -> tuple[tuple[int, CountedRule], ...]:
        self.looks += 1
        text = f'-m comment --comment "rule 0 {direction} of {policy}" -g KUBE-NETPOL-ALLOW'
        rule = CountedRule(f"KUBE-NWPLCY-{family}", text, self.looks, 60 * self.looks)
        return ((0, rule), (-1, CountedRule(f"KUBE-NWPLCY-{family}", "-j RETURN", 0, 0)))


class Stage:
    """The page of such a node, served on a free port."""

    def __init__(self, objects: Iterable[Object], who: str = "kubectl-edit") -> None:
        self.engine = Engine(HERE)
        self.engine.apply(upsert(*objects), 0.0)
        self.who = who
        self.busy = False
        self.faults: tuple[Fault, ...] = (Fault("IPv6 forwarding is off", "turn it on", blocking=False),)
        self.cuts: CutsStatus | None = None
        self.flows = Flows()
        self.kernel = MadeUpKernel()
        clock, hits = FakeClock(), Hits()
        explainer = Explainer(
            node=HERE,
            extract=self.engine.extract,
            pods=self.engine.all_pods,
            invalid=self.engine.invalid,
            begun=lambda: True,
            tracer=lambda: self.kernel,
            connections=lambda *_: (),
            services=Inventory(lambda end: bool(self.engine.extract([end]).pods), self.engine.all_pods),
            clock=clock,
            hits=hits,
            denied=lambda questions: tuple(map(as_text, denied_between(self.flows, questions))),
        )
        sources = Sources(
            node=HERE,
            version="0.1.0",
            health=self.health,
            status=self.status,
            pods=self.engine.local_pods,
            policy=self.engine.staging.written,
            history=self.history,
            denied=functools.partial(denied, self.flows),
            tracer=lambda: self.kernel,
            hits=hits,
            explainer=explainer,
            clock=clock,
        )
        routes: dict[str, Route] = {}
        routes |= {
            **flow_routes(self.flows),
            **page_routes(lambda: sources, lambda: self.server.routes),
        }
        self.server = StatusServer("127.0.0.1", 0, self.health, self.status, (HERE,), routes)
        self.server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def close(self) -> None:
        self.server.stop()

    def follow(self) -> socket.socket:
        """Follow denied connections, as a client that never ends."""
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE)
        connection.sendall(b"GET /flows?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
        return connection

    def health(self) -> Health:
        now = time.time()
        caches = {kind: SyncState(True, 3, now, now) for kind in (Kind.POD, Kind.NAMESPACE, Kind.POLICY)}
        return Health(now, now, caches, applied=True, faults=self.faults)

    def status(self) -> StatusSnapshot:
        if self.busy:
            raise TimeoutError("nothing within 30 s")
        facts = Facts(
            HERE,
            "0.1.0",
            NOW,
            NOW - 7200,
            ready=True,
            applied=True,
            iptables_mode="nft",
            families=(4, 6),
            states={Kind.POD: SyncState(True, 3, NOW, NOW)},
            faults=self.faults,
            cuts=self.cuts,
            apply_at=NOW - 30,
            apply_seconds=0.004,
            apply_writes=2,
        )
        return take(facts, self.engine.lowered, KernelView({}, {}))

    def history(self, query: Query) -> Sequence[Row]:
        del query
        effect = Effect(isolated_ingress=("shop/db",), members_added=2)
        return [
            Row(
                Subject.POLICY,
                What.CHANGED,
                moment(NOW - 60),
                object="shop/api-to-db",
                kernel=moment(NOW - 59),
                who=self.who,
                diff=("+ingress[0] from pods[app=api] port 5432/TCP",),
                effect=effect,
            )
        ]


def shop() -> list[Object]:
    """Return a small shop."""
    api = Rule((Peer(labelled(app="api")),), (Port(port=5432),))
    out = Rule((Peer(labelled(app="db")),), (Port(port=5432),))
    return [
        Namespace("shop", {"team": "a"}),
        pod("web", "10.0.0.1", "fd00::1"),
        pod("api", "10.0.0.2", "fd00::2"),
        pod("db", "10.0.0.3", "fd00::3"),
        pod("far", "10.0.1.1", node="there"),
        NetworkPolicy("shop", "api-to-db", labelled(app="db"), ingress=(api,)),
        NetworkPolicy("shop", "api-out", labelled(app="api"), egress=(out, Rule())),
    ]


def many(pods: int = 250, policies: int = 1000) -> list[Object]:
    """Return as many pods and policies as a large node has."""
    rule = Rule((Peer(labelled(app="client")),), (Port(port=80),))
    spaces = [f"shop-{n}" for n in range(4)]
    return [
        *map(Namespace, spaces),
        *(
            pod(
                f"pod-{n:03}",
                f"10.1.{n // 250}.{n % 250 + 1}",
                namespace=spaces[n % 4],
                app=f"app-{n}",
                group=f"g{n // 4 % 10}",
            )
            for n in range(pods)
        ),
        *(
            NetworkPolicy(spaces[n % 4], f"policy-{n:04}", labelled(group=f"g{n // 4 % 10}"), ingress=(rule,))
            for n in range(policies)
        ),
    ]
