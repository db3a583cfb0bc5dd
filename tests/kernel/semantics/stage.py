"""The stage of these tests: one lab whose objects are swapped from test to test, and the agent's own
engine and backend on its first node.

The cast, each answering on :data:`TCP`, :data:`UDP` and :data:`SCTP`: pods ``s``, ``t``, ``a`` and ``b``
of namespace x and ``c`` of namespace y on the policed node ``near``; ``f`` (x) and ``g`` (y) on ``far``,
where nothing is policed; a host ``out``. A pod's label ``pod`` is its name, a namespace's ``team`` its own.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from agent.dataplane.backend import Backend, Report
from agent.dataplane.iptables.options import Options
from agent.dataplane.podlinks import LinkFinder, PodLink
from agent.dataplane.turns import wait
from agent.kube import model
from agent.kube.events import Delete, Event, Invalid, Synced, Upsert
from agent.kube.model import Kind, NamedPort, Object
from agent.net import Family, Protocol
from agent.policy.budget.limits import DEFAULT, Budgets
from agent.policy.engine import Engine
from agent.runtime.linked_pods import owners_of, without_others_addresses
from tests.build import network, packed
from tests.lab import packets
from tests.lab.backends import BackendKind
from tests.lab.lab import Lab
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.place import LabError, Place
from tests.lab.probe import Flow, Verdict
from tests.lab.service import Service, install_kube_proxy

TCP = (1, 80, 81, 7999, 8000, 8001, 8009, 8010, 8011, 65535)
UDP = (53, 80)
SCTP = (9, 80)
NEAR, FAR = ("s", "t", "a", "b", "c"), ("f", "g")
NAMESPACE = {"s": "x", "t": "x", "a": "x", "b": "x", "c": "y", "f": "x", "g": "y"}

SERVICE_PORT = 1000
SERVED = {"s": 1, "t": 2}
"""Each of these pods is the only endpoint of a Service of this number: TCP 1000 to its port 80."""

UNTRACKED = "untracked packets from or to isolated pods"
"""What is said of packets that were denied and are not tracked."""
TIMES = 5
"""How often each hand-made packet is sent."""

_serial = itertools.cycle(range(20000, 60000))


def serial() -> int:
    """Return a number not given for long: a source port or identifier that no connection has."""
    return next(_serial)


class Stage:
    """A lab of one layout and backend, and what is programmed on its node ``near``."""

    def __init__(self, layout: Layout, kind: BackendKind) -> None:
        self.layout, self.kind, self.mode = layout, kind, kind.mode
        self.lab = Lab()
        self.near: Node = self.lab.node("near", layout, kind.mode)
        self.far: Node = self.lab.node("far", layout, kind.mode)
        self.out = self.lab.host("out")
        nodes = (*((name, self.near) for name in NEAR), *((name, self.far) for name in FAR))
        self.pods: dict[str, Pod] = {name: self.lab.pod(node, name) for name, node in nodes}
        self.places: dict[str, Place] = {
            **self.pods,
            "near": self.near,
            "far": self.far,
            "out": self.out,
        }
        for place in self.places.values():
            self.lab.serve(place, tcp=TCP, udp=UDP, sctp=SCTP)
        self.services = {
            name: Service(number, Protocol.TCP, SERVICE_PORT, 80, (self.pods[name],))
            for name, number in SERVED.items()
        }
        install_kube_proxy(self.near, list(self.services.values()))
        for family in Family:  # it would drop what these tests want to see judged
            invalid = ("-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
            self.near.iptables(family, "-D", "KUBE-FORWARD", *invalid)
        self.options = Options()
        self.patience = math.inf
        self.now = 0.0
        self.engine = Engine("near", linger=0)
        self.backend: Backend | None = None
        self._open: set[Flow] = set()
        self._serving: dict[int, set[str]] = {}

    def close(self) -> None:
        if self.backend is not None:
            self.backend.close()
        self.lab.close()

    def serves(self, port: int, *names: str) -> None:
        """Have some of the cast answer on another UDP port, from now on."""
        for name in set(names) - self._serving.get(port, set()):
            self.lab.serve(self.places[name], udp=[port])
        self._serving.setdefault(port, set()).update(names)

    # What the agent is told

    def pod(
        self,
        name: str,
        *,
        ns: str | None = None,
        ports: Mapping[str, int] | Sequence[NamedPort] = (),
        place: Pod | None = None,
        **fields: object,
    ) -> model.Pod:
        """Return the object of a pod of the cast; ``ports`` by name are TCP. See :class:`model.Pod`."""
        where = place or self.pods[name]
        named = ports if not isinstance(ports, Mapping) else [tcp_port(n, p) for n, p in ports.items()]
        base = model.Pod(
            ns or NAMESPACE[name],
            name,
            uid=f"uid-{name}",
            labels={"pod": name},
            node=where.node.name,
            addresses=(packed(where.v4), packed(where.v6)),
            ports=tuple(named),
            started="2024-01-01T00:00:00Z",
        )
        return msgspec.structs.replace(base, **fields)

    def namespace(self, name: str, **fields: object) -> model.Namespace:
        """Return a namespace; its label ``team`` is its name unless labels are given."""
        return msgspec.structs.replace(model.Namespace(name, {"team": name}), **fields)

    def given(
        self,
        *told: Object | Event,
        options: Options = Options(),  # noqa: B008 - immutable
        linger: float = 0.0,
        allow_nodes: bool = False,
        patience: float = math.inf,
        budgets: Budgets = DEFAULT,
        warned: str = "",
        deny_new: bool = False,
        pod_networks: Iterable[str] = (),
    ) -> None:
        """Let the cluster be the cast and these objects, which may replace the cast's, and the kernel so.

        ``patience``: seconds for which the backend waits for a command. ``warned``: what the one
        warning of the backend says, where there must be one. ``deny_new``: addresses of no known pod are
        closed, in ``pod_networks`` if there are any.
        """
        objects: list[Object] = [self.pod(name) for name in self.pods]
        objects += [self.namespace(name) for name in ("x", "y")]
        cluster = {(type(o), o.key): o for o in objects}
        events: list[Event] = []
        for item in told:
            if isinstance(item, Upsert | Delete | Invalid | Synced):
                events.append(item)
            else:
                cluster[type(item), item.key] = item
        first = [Upsert(model.kind_of(o), o) for o in cluster.values()]
        self.engine = Engine(
            "near",
            linger=linger,
            allow_nodes=allow_nodes,
            budgets=budgets,
            deny_new=deny_new,
            pod_networks=frozenset(map(network, pod_networks)),
        )
        self.engine.apply([*first, *events, *(Synced(kind) for kind in Kind)], self.now)
        with self.kernel():
            if self.backend is None or (options, patience) != (self.options, self.patience):
                if self.backend is not None:
                    self.backend.close()
                self.options, self.patience = options, patience
                self.backend = self.kind.make(options, patience=patience)
            for move in (self.backend.sync, self.backend.tidy):
                _sound(move(self.engine.lowered), warned)
                for report in self.finish():
                    _sound(report, warned)

    def finish(self) -> list[Report]:
        """Have the backend go on until nothing is left to do; return what it reported."""
        assert self.backend is not None
        found = []
        with self.kernel():
            while self.backend.busy:
                wait(self.backend.waits())
                found.append(self.backend.resume(self.engine.lowered))
        return found

    def tidy(self) -> None:
        """Have the backend remove what nothing needs any more."""
        assert self.backend is not None
        with self.kernel():
            _sound(self.backend.tidy(self.engine.lowered))

    def repair(self) -> None:
        """Have the backend put right what differs in the kernel."""
        assert self.backend is not None
        with self.kernel():
            _sound(self.backend.sync(self.engine.lowered))

    def moved(self) -> None:
        """Have the backend notice that interfaces of the policed node changed."""
        assert self.backend is not None
        with self.kernel():
            assert self.backend.moved()
            _sound(self.backend.sync(self.engine.lowered))
            _sound(self.backend.tidy(self.engine.lowered))
            assert not self.backend.moved()
            found = self.backend.audit(self.engine.lowered)
            assert not found, found

    def others_judged(self, *, told: bool = False) -> None:
        """Have packets that the node sends for others judged: found out, or as the backend is ``told``."""
        assert self.backend is not None
        with self.kernel():
            if told:
                self.backend.judge_transit()
            else:
                assert self.backend.disturbed() is (self.mode is Mode.NFT)
                assert bool(self.backend.audit(self.engine.lowered)) is (self.mode is Mode.NFT)
            _sound(self.backend.sync(self.engine.lowered))
            assert not self.backend.disturbed()
            assert self.backend.audit(self.engine.lowered) == []

    def then(self, *told: Object | Event, after: float = 0.0, most: int | None = None) -> None:
        """Let these change, in one step, so many seconds later; ``most``: see :meth:`Engine.apply`."""
        assert self.backend is not None
        self.now += after
        events = [Upsert(model.kind_of(t), t) if isinstance(t, Object) else t for t in told]
        delta = self.engine.apply(events, self.now, most)
        with self.kernel():
            _sound(self.backend.apply(self.engine.lowered, delta))

    def link(self, finder: LinkFinder) -> dict[str, PodLink]:
        """Have pods judged by the links that are found now, too; return these by name."""
        assert self.backend is not None
        with self.kernel():
            found = without_others_addresses(self.engine, finder.find(owners_of(self.engine)))
            _sound(self.backend.relink(self.engine.lowered, found))
            assert self.backend.audit(self.engine.lowered) == []
        return {link.name: link for link in found}

    def unlink(self) -> None:
        """Have pods judged by their addresses alone again, as all tests do that do not call :meth:`link`."""
        if self.backend is not None:
            with self.kernel():
                _sound(self.backend.relink(self.engine.lowered, ()))

    @contextlib.contextmanager
    def kernel(self) -> Iterator[None]:
        """Be on the policed node, as the agent is."""
        with self.near.netns.acted_in():
            yield

    # What packets do

    def flows(self, text: str) -> list[Flow]:
        """Read flows such as ``a b -> s: tcp/80 udp/53``: the product of both sides and the ports.

        ``IPv4`` or ``IPv6`` in front means that family only; no ports, one port of each protocol. On the
        right ``service-s`` is the address of a Service.
        """
        families: Iterable[Family] = Family
        for family in Family:
            if text.startswith(f"IPv{int(family)} "):
                families, text = [family], text[5:]
        route, _, ports = text.partition(":")
        sources, _, destinations = route.partition("->")
        wanted = []
        for entry in ports.split() or ("tcp/80", "udp/53", "sctp/9"):
            protocol, _, number = entry.partition("/")
            wanted.append((Protocol[protocol.upper()], int(number)))
        return [
            Flow(self.places[source], self._address(destination, family), protocol, number)
            for family in families
            for source in sources.split()
            for destination in destinations.split()
            for protocol, number in wanted
        ]

    def _address(self, name: str, family: Family) -> str:
        if name.startswith("service-"):
            return self.services[name.removeprefix("service-")].address(family)
        return self.places[name].address(family)

    def expect(
        self,
        *allowed: str,
        denied: Sequence[str] | str = (),
        rejected: Sequence[str] | str = (),
        refused: Sequence[str] | str = (),
    ) -> None:
        """Check what becomes of flows now: allowed, denied (dropped), or rejected by policy.

        Those denied or rejected are shown to be open without policy. ``refused`` ones pass, and are refused
        where nothing listens.
        """
        refusals = self._flows_of(refused)
        expected = dict.fromkeys(refusals, Verdict.REJECTED)
        groups = {Verdict.ALLOWED: allowed, Verdict.DENIED: denied, Verdict.REJECTED: rejected}
        for verdict, texts in groups.items():
            found = dict.fromkeys(self._flows_of(texts), verdict)
            assert not expected.keys() & found.keys(), f"expected twice: {texts}"
            expected |= found
        stopped = [flow for flow, verdict in expected.items() if verdict is not Verdict.ALLOWED]
        self._prove_open(set(stopped).difference(refusals))
        wrong = self.lab.check(expected)
        assert not wrong, "; ".join(f"{flow} is {verdict}" for flow, verdict in wrong.items())

    def _flows_of(self, texts: Sequence[str] | str) -> list[Flow]:
        return [flow for text in ((texts,) if isinstance(texts, str) else texts) for flow in self.flows(text)]

    def prove_open(self, *texts: str) -> None:
        """Show now, and not when they are to be denied, that nothing but policy stops these flows."""
        self._prove_open(self._flows_of(texts))

    def _prove_open(self, flows: Iterable[Flow]) -> None:
        """Show, once for each flow, that nothing but policy stops it: with the node's chains passed by."""
        unknown = [flow for flow in flows if flow not in self._open]
        if unknown:
            with self.without_policy():
                self.lab.assert_open(unknown)
            self._open.update(unknown)

    @contextlib.contextmanager
    def without_policy(self) -> Iterator[None]:
        """Have packets pass the policed node without a look at the agent's rules."""
        with self.kind.passed_by(self.near):
            yield

    def arrive(self, at: Place, send: Callable[[bytes], object]) -> int:
        """Return how many of :data:`TIMES` packets arrive at a pod's or host's link; ``send`` sends one
        that holds the tag it is given."""
        tag = b"<tag-%08d>" % serial()
        with packets.sniff(at, tag) as arrived:
            for _ in range(TIMES):
                send(tag)
            self.lab.settle()
            return arrived.count()

    def none_arrive(self, at: Place, send: Callable[[bytes], object]) -> None:
        """Check that policy, and nothing else, keeps every such packet from arriving."""
        with self.without_policy():
            if (count := self.arrive(at, send)) != TIMES:
                raise LabError(f"without policy {count} of {TIMES} arrive")
        assert self.arrive(at, send) == 0

    def all_arrive(self, at: Place, send: Callable[[bytes], object]) -> None:
        """Check that every such packet arrives."""
        assert self.arrive(at, send) == TIMES


def tcp_port(name: str, number: int) -> NamedPort:
    return NamedPort(name, Protocol.TCP, number)


def gone(found: model.Pod | model.NetworkPolicy | model.Namespace) -> Delete:
    """Return the event of an object's end."""
    return Delete(model.kind_of(found), found.key)


def _sound(report: Report, warned: str = "") -> None:
    assert not report.pending, report.faults
    # Untracked packets are told of for ten minutes, and the tests of a stage follow one another sooner.
    told = [fault for fault in report.faults if UNTRACKED in warned or UNTRACKED not in fault.what]
    assert all(warned and warned in fault.what and not fault.blocking for fault in told), told
    assert bool(told) is bool(warned)
