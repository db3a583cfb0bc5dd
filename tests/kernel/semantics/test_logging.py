"""Denied and allowed connections, logged by the rules: who, what and why, as the specification says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from agent.dataplane.iptables.log_counters import read_logged
from agent.dataplane.iptables.log_probe import log_probe
from agent.dataplane.iptables.options import LogRules, Options
from agent.dataplane.logged import Decided
from agent.dataplane.podlinks import LinkFinder
from agent.kernel.nflog import NflogSocket
from agent.kube.logging import Amount, Logging
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.observe.flows.digest import Digest
from agent.observe.flows.flow import Flow
from agent.observe.flows.inventory import Inventory
from tests.kernel.semantics.attached import NOBODYS, connects, raw, with_address
from tests.kernel.semantics.stage import TIMES, Stage, gone, serial
from tests.kernel.semantics.written import isolated, labels, pods, policy, port
from tests.lab import packets

pytestmark = pytest.mark.both_modes

GROUP = 41
LOG = Options(log=LogRules(GROUP))
DENIED = Logging(Amount.ALL)


class Reader:
    """Listens on the policed node, and digests as the agent does."""

    def __init__(self, stage: Stage, log: NflogSocket) -> None:
        self.stage, self.log = stage, log
        # The engine of now: a test may give another cluster.
        inventory = Inventory(lambda ends: stage.engine.extract(ends), lambda: stage.engine.all_pods())
        self.digest = Digest(inventory, 1000.0, time.time)

    def name_links(self, links: dict[str, Key]) -> None:
        inventory = Inventory(self.stage.engine.extract, self.stage.engine.all_pods, lambda: links)
        self.digest = Digest(inventory, 1000.0, time.time)

    def packets(self, least: int, seconds: float = 20.0) -> list[Flow]:
        """Return what is told, after so many packets have come, or some seconds."""
        found, came, end = list[Flow](), 0, time.monotonic() + seconds
        while came < least and time.monotonic() < end:
            read = self.log.read(0.3)
            came += len(read)
            self.digest.take(read, 0.0)
            found += [report for report in self.digest.reports(0.0) if isinstance(report, Flow)]
        assert came >= least
        return found


@contextlib.contextmanager
def reading(stage: Stage) -> Iterator[Reader]:
    with stage.kernel(), NflogSocket(GROUP) as log:
        yield Reader(stage, log)


def logging_rules(stage: Stage) -> list[str]:
    """Return the rules in the kernel that log, of both families."""
    found = []
    for family in Family:
        command = "iptables" if family is Family.V4 else "ip6tables"
        with stage.kernel():
            printed = stage.near.netns.run([f"{command}-{stage.mode}-save", "-t", "filter"])
        found += [line for line in printed.splitlines() if "NFLOG" in line]
    return found


def test_a_denied_connection_is_told_at_the_pod_that_denies_it(stage: Stage) -> None:
    stage.given(
        stage.namespace("x", logging=DENIED),
        isolated("s"),
        policy("web", labels(pod="s"), ingress=[{"from": [pods(pod="a")], "ports": [port(80)]}]),
        isolated("t", types=["Egress"]),
        options=LOG,
    )
    with reading(stage) as reader:
        stage.expect("a -> s: tcp/80", denied=["a -> s: tcp/81", "b -> s: tcp/80", "t -> c: udp/53"])
        told = reader.packets(6)
    assert {report.verdict for report in told} == {Decided.DENIED}
    found = {
        (report.direction, report.pod, report.source.pod, report.destination.pod, report.protocol): report
        for report in told
    }
    assert found.keys() == {
        (Direction.INGRESS, "x/s", "x/a", "x/s", "TCP"),
        (Direction.INGRESS, "x/s", "x/b", "x/s", "TCP"),
        (Direction.EGRESS, "x/t", "x/t", "y/c", "UDP"),
    }
    assert {len(report.source.address.split(":")) > 1 for report in told} == {False, True}
    by_port, by_peer = (found[Direction.INGRESS, "x/s", one, "x/s", "TCP"] for one in ("x/a", "x/b"))
    egress = found[Direction.EGRESS, "x/t", "x/t", "y/c", "UDP"]
    assert by_port.policies == ("x/isolate-s-ingress", "x/web")
    assert by_port.nearest is not None
    assert (by_port.nearest.policy, by_port.nearest.rule, by_port.nearest.peer) == ("x/web", 0, True)
    assert by_port.nearest.why == "TCP 81 is not 80"
    assert by_peer.nearest is not None
    assert (by_peer.nearest.port, by_peer.nearest.why) == (
        True,
        "x/b does not match pod=a: it has pod=b",
    )
    assert egress.why == (
        "isolated by x/isolate-t-egress, without any egress rule; "
        "DNS is not allowed: no egress rule for x/t has UDP port 53, so it cannot look up names"
    )


def test_an_allowed_connection_is_told_with_the_rule_that_allows_it(stage: Stage) -> None:
    stage.given(
        stage.pod("s", logging=Logging(allowed=Amount.ALL)),
        policy("web", labels(pod="s"), ingress=[{"from": [pods(pod="a")], "ports": [port(80)]}]),
        options=LOG,
    )
    with reading(stage) as reader:
        stage.expect("a -> s: tcp/80", denied="b -> s: tcp/80")
        told = reader.packets(2)
    assert {(report.verdict, report.source.pod, report.rules) for report in told} == {
        (Decided.ALLOWED, "x/a", ("x/web[0]",))
    }


def test_annotations_begin_and_end_logging_and_rules_are_as_the_kernel_prints_them(stage: Stage) -> None:
    stage.given(isolated("s"), options=LOG)
    assert logging_rules(stage) == []
    for logging, number in ((DENIED, 2), (Logging(Amount.SAMPLED, Amount.ALL), 4), (Logging(Amount.OFF), 0)):
        stage.then(stage.pod("s", logging=logging))
        assert len(logging_rules(stage)) == number
        with stage.kernel():
            assert stage.backend is not None
            assert stage.backend.audit(stage.engine.lowered) == []
    stage.expect("a -> t", denied="a -> s")


@pytest.mark.parametrize(("rate", "burst"), [(10, 5), (300, 20), (7, 1)])
def test_whatever_the_limit_rules_are_as_the_kernel_prints_them(stage: Stage, rate: int, burst: int) -> None:
    options = Options(log=LogRules(GROUP, rate, burst))
    stage.given(stage.namespace("x", logging=Logging(Amount.SAMPLED)), isolated("s"), options=options)
    assert len(logging_rules(stage)) == 2
    with stage.kernel():
        assert stage.backend is not None
        assert stage.backend.audit(stage.engine.lowered) == []


def test_all_is_limited_too_so_that_a_flood_of_one_pod_leaves_others_their_reader(stage: Stage) -> None:
    stage.given(stage.namespace("x", logging=DENIED), isolated("s"), options=LOG)
    rules = logging_rules(stage)
    assert len(rules) == 2
    assert all("--limit 1000/sec --limit-burst 1000 " in rule for rule in rules)
    with stage.kernel():
        assert stage.backend is not None
        assert stage.backend.audit(stage.engine.lowered) == []


def told_of_a_flood(stage: Stage, reader: Reader, sent: int, burst: int) -> Flow:
    """Send pod ``s`` so many packets, of which a burst and one a second are logged; return what is told.

    Asserts that all of them are counted, and how many are logged.
    """
    which = (Direction.INGRESS, "x/s")
    # A chain that is there already keeps in legacy mode what its rules have counted.
    before = read_logged(stage.mode.value, Family)[which]
    began = time.monotonic()
    for _ in range(sent):
        source, destination = stage.pods["c"].v4, stage.pods["s"].v4
        packets.send_ip(stage.pods["c"], packets.udp(source, destination, 9, b"", source_port=serial()))
    stage.lab.settle()
    took = time.monotonic() - began
    (told,) = reader.packets(burst)
    counts = read_logged(stage.mode.value, Family)
    denied, logged = (now - then for now, then in zip(counts[which], before, strict=True))
    assert denied == sent
    assert burst <= logged <= burst + took + 1
    return told


def test_the_limit_holds_and_what_it_leaves_out_is_counted(stage: Stage) -> None:
    options = Options(log=LogRules(GROUP, rate=1, burst=3))
    stage.given(stage.namespace("x", logging=Logging(Amount.SAMPLED)), isolated("s"), options=options)
    with reading(stage) as reader:
        told = told_of_a_flood(stage, reader, 500, burst=3)
    assert (told.source.pod, told.destination.port) == ("y/c", 9)


def test_what_a_pods_link_denies_is_told_with_the_pod_that_sent_it(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    """A forged source, and one that is behind the link but that the API does not know."""
    stage.given(stage.pod("t", logging=DENIED), isolated("t", types=["Egress"]), options=LOG)
    assert "link" not in "".join(logging_rules(stage))
    stage.link(finder)
    t, b, c = (stage.pods[name] for name in "tbc")
    extra = NOBODYS[family]
    with reading(stage) as reader:
        links = {t.veth: Key("x", "t")}
        reader.name_links(links)
        stage.none_arrive(c, raw(stage, t, b.address(family), c))
        (forged,) = {(one.pod, one.direction, one.why) for one in reader.packets(TIMES)}
        assert forged == (
            "x/t",
            Direction.EGRESS,
            f"{b.address(family)} is the address of x/b, but the packet came by the link of x/t ({t.veth}): "
            "dropped, whatever the policies allow",
        )
        with with_address(stage, t, extra):
            stage.link(finder)
            assert not connects(stage, t, c.address(family), bound=extra)
            (further,) = {(one.pod, one.why) for one in reader.packets(1)}
            stage.then(stage.pod("t", logging=Logging(Amount.OFF)))
            stage.link(finder)
            assert logging_rules(stage) == []
    assert further == (
        "x/t",
        f"{extra} is a further address behind the link of x/t ({t.veth}), which the API does not know: none "
        "of the egress policies of that pod allows it",
    )


def test_a_closed_address_is_told_where_the_node_logs_by_default(stage: Stage) -> None:
    options = Options(log=LogRules(GROUP, default=Amount.SAMPLED))
    stage.given(isolated("s"), options=options, linger=60)
    assert len(logging_rules(stage)) == 4
    address = stage.pods["s"].v4
    with reading(stage) as reader:
        stage.then(gone(stage.pod("s")))
        stage.lab.settle()
        assert not connects(stage, stage.pods["a"], address)
        (told,) = {(one.pod, one.destination.address, one.why) for one in reader.packets(1)}
    assert told == (
        "",
        address,
        f"{address} is no pod's address; it stays closed after a pod that was isolated",
    )


def test_the_kernel_is_tried_before_and_nothing_of_that_stays(stage: Stage) -> None:
    stage.given(isolated("s"))
    possible = log_probe(stage.mode.value, LogRules(GROUP))
    with stage.kernel():
        assert all(map(possible, Family))
    assert logging_rules(stage) == []
    stage.expect("a -> t", denied="a -> s")
