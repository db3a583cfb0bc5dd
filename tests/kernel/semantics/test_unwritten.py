"""What is taken away while rules cannot be written, or sets not made: with packets, beside what goes on."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping

import pytest

from agent.dataplane.backend import Report
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables.tables import TableError, Tables
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetContent
from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import Key, Kind, Object, Pod, kind_of
from agent.net import Direction, Family
from tests.kernel.semantics.stage import UNTRACKED, Stage
from tests.kernel.semantics.written import labels, pods, policy, port

pytestmark = [pytest.mark.iptables, pytest.mark.both_modes]

S, T = labels(pod="s"), labels(pod="t")
A, B = {"from": [pods(pod="a")]}, {"from": [pods(pod="b")]}
TO_A, TO_B = {"to": [pods(pod="a")]}, {"to": [pods(pod="b")]}


@pytest.fixture(autouse=True)
def _left_sound(stage: Stage) -> Iterator[None]:
    yield
    stage.given()


def events_of(*told: Object | Event) -> list[Event]:
    return [Upsert(kind_of(t), t) if isinstance(t, Object) else t for t in told]


def tell(stage: Stage, *told: Object | Event) -> Report:
    """Apply what changes; return the report, whatever it says."""
    assert stage.backend is not None
    with stage.kernel():
        return stage.backend.apply(stage.engine.lowered, stage.engine.apply(events_of(*told), stage.now))


def sync(stage: Stage) -> Report:
    """Move the kernel to the program; of its faults those about untracked packets are of earlier tests."""
    assert stage.backend is not None
    with stage.kernel():
        report = stage.backend.sync(stage.engine.lowered)
    return report._replace(faults=tuple(fault for fault in report.faults if UNTRACKED not in fault.what))


def enforced(stage: Stage, pod: str) -> bool:
    """Whether the kernel enforces what the program says of a pod, whatever else failed."""
    assert stage.backend is not None
    key = Key("x", pod)
    found = stage.engine.known(Kind.POD, key)
    assert isinstance(found, Pod)
    return stage.backend.enforces(stage.engine.lowered, key, found.addresses)


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Have every write of rules fail, as it does while another program holds the lock."""

    def restore(_: Tables, lines: Mapping[Family, list[str]], *__: object) -> dict[Family, TableError]:
        return {
            f: TableError("restore", "the lock is held", refused=False) for f, text in lines.items() if text
        }

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(Tables, "restore", restore)
        yield


AB = policy("s", S, ingress=[{"from": [pods(pod="a"), pods(pod="b")], "ports": [port(80)]}])
_TAKEN: dict[str, tuple[Object | Event, ...]] = {
    "a peer": (policy("s", S, ingress=[{**A, "ports": [port(80)]}]),),
    "a port": (policy("s", S, ingress=[{**A, "ports": [port(81)]}]),),
    "the rule": (policy("s", S, ingress=[]),),
    "the policy, and another stays": (Delete(Kind.POLICY, Key("x", "s")),),
}


@pytest.mark.parametrize("taken", _TAKEN)
def test_a_pod_whose_policy_takes_something_away_is_closed_until_that_is_written(
    stage: Stage, taken: str
) -> None:
    stage.given(AB, policy("also-s", S, ingress=[{**A, "ports": [port(8000)]}]), policy("t", T, ingress=[A]))
    stage.expect("a b -> s: tcp/80", "a -> t")
    with refused():
        report = tell(stage, *_TAKEN[taken])
        assert report.pending
        assert len(report.standing) == len(Family)
        for fault in report.standing:
            assert "x/s" in fault.what
            assert "x/t" not in fault.what
            assert "the lock is held" in fault.what
            assert fault.remedy
        # What is known to connection tracking or was allowed a moment ago is another matter than what is new.
        stage.expect("a -> t", "s -> a b", denied=["a b -> s: tcp/80", "a -> s: tcp/8000"])
        assert sync(stage).standing == report.standing
    report = sync(stage)
    assert not report.pending
    assert report.standing == ()
    stage.expect("a -> s: tcp/8000", "a -> t", denied="b -> s: tcp/80")


def test_a_pod_is_closed_in_the_direction_that_loses_only(stage: Stage) -> None:
    stage.given(policy("out", S, egress=[TO_A, TO_B], types=["Egress"]), policy("in", S, ingress=[A]))
    stage.expect("s -> a b", "a -> s")
    with refused():
        tell(stage, policy("out", S, egress=[TO_B], types=["Egress"]))
        stage.expect("a -> s", "b -> a", denied="s -> a b")
    assert sync(stage).standing == ()
    stage.expect("s -> b", "a -> s", denied="s -> a")


def test_what_is_only_added_closes_nobody(stage: Stage) -> None:
    stage.given(policy("s", S, ingress=[{**A, "ports": [port(80)]}]))
    with refused():
        report = tell(stage, policy("s", S, ingress=[{**A, "ports": [port(80)]}, {**B, "ports": [port(81)]}]))
        assert report.pending
        assert report.standing == ()
        assert tell(stage, policy("more", S, ingress=[{**B, "ports": [port(80)]}])).standing == ()
        stage.expect("a -> s: tcp/80", denied=["b -> s: tcp/80 tcp/81"])
    assert sync(stage).faults == ()
    stage.expect("a b -> s: tcp/80", "b -> s: tcp/81", denied="a -> s: tcp/81")


def test_a_pod_that_is_newly_isolated_is_closed_though_its_chain_cannot_be_made(stage: Stage) -> None:
    stage.given(policy("t", T, ingress=[A]))
    stage.expect("a b -> s", "a -> t")
    with refused():
        assert tell(stage, policy("s", S, ingress=[A])).pending
        assert not enforced(stage, "s")
        stage.expect("a -> t", "s -> a", denied="a b -> s")
    assert sync(stage).faults == ()
    stage.expect("a -> s", "a -> t", denied="b -> s")


def test_a_pod_that_an_agent_left_closed_is_opened_by_the_next(stage: Stage) -> None:
    stage.given(AB)
    with refused():
        tell(stage, *_TAKEN["a peer"])
    assert stage.backend is not None
    stage.backend.close()
    stage.backend = None
    stage.given(*_TAKEN["a peer"])
    stage.expect("a -> s: tcp/80", denied="b -> s: tcp/80")
    for family in Family:
        closed = names.closed_set(Direction.INGRESS, family)
        assert not stage.near.run("ipset", "list", closed).partition("Members:\n")[2].strip()


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """Have the kernel not say what sets hold."""

    def read(*_: object) -> dict[str, SetContent]:
        raise SetError("(all)", "no memory", "make some")

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(IpSets, "read", read)
        yield


def test_a_change_waits_until_sets_could_be_read_once(stage: Stage) -> None:
    stage.given(policy("s", S, ingress=[A]))
    assert stage.backend is not None
    stage.backend.close()
    with stage.kernel():
        stage.backend = stage.kind.make(stage.options)
    with unread():
        assert sync(stage).pending
        report = tell(stage, policy("t", T, ingress=[A]))
        assert (report.pending, report.writes) == (True, 0)
        stage.expect("a -> s", denied="b -> s")
        with stage.kernel():
            report = stage.backend.relink(stage.engine.lowered, ())
        assert (report.pending, report.writes) == (True, 0)
    assert sync(stage).faults == ()
    stage.expect("a -> s", "a -> t", denied="b -> s t")


@contextlib.contextmanager
def taken(stage: Stage, name: str, family: Family) -> Iterator[None]:
    """Have somebody else's set of another type be where the agent wants one; a rule keeps it there."""
    rule = ("INPUT", "-m", "set", "--match-set", name, "src,src", "-j", "ACCEPT")
    inet = "inet" if family is Family.V4 else "inet6"
    stage.near.run("ipset", "create", name, "hash:net,port", "family", inet)
    stage.near.iptables(family, "-A", *rule)
    try:
        yield
    finally:
        stage.near.iptables(family, "-D", *rule)


def sets_that_come(stage: Stage, *told: Object | Event) -> list[str]:
    """Return the sets that a change makes."""
    engine = copy.deepcopy(stage.engine)
    before = set(engine.lowered.sets)
    engine.apply(events_of(*told), stage.now)
    return sorted(names.peer_set(found) for found in engine.lowered.sets.keys() - before)


def test_an_edit_takes_away_what_it_does_though_a_set_that_it_adds_cannot_be_made(
    stage: Stage, family: Family
) -> None:
    here = f"IPv{int(family)} "
    stage.given(policy("s", S, ingress=[A, B]), policy("t", T, ingress=[A]))
    stage.expect(f"{here}a b -> s")
    edited = policy("s", S, ingress=[{"from": [pods(pod="t")]}, B, {"ports": [port(81)]}])
    (name,) = (n for n in sets_that_come(stage, edited) if f"-{int(family)}-" in n)
    with taken(stage, name, family):
        report = tell(stage, edited)
        assert report.pending
        assert any(name in fault.what for fault in report.faults)
        assert report.standing == ()
        assert [enforced(stage, pod) for pod in "st"] == [False, True]
        stage.expect(
            f"{here}b -> s", f"{here}a -> s: tcp/81", f"{here}a -> t", denied=f"{here}a t -> s: tcp/80 udp/53"
        )
        assert sync(stage).pending
        assert [enforced(stage, pod) for pod in "st"] == [False, True]
        stage.expect(f"{here}b -> s", denied=f"{here}a t -> s: tcp/80 udp/53")
    assert sync(stage).faults == ()
    assert [enforced(stage, pod) for pod in "st"] == [True, True]
    stage.expect("b t -> s", denied="a -> s: tcp/80 udp/53")


def test_ports_of_which_one_cannot_be_looked_up_are_not_widened(stage: Stage, family: Family) -> None:
    """Such a rule returns for ports that are none of its own: without one of them it returns for more."""
    here = f"IPv{int(family)} "
    web = stage.pod("s", ports={"web": 81})
    stage.given(web, policy("s", S, ingress=[{**A, "ports": [port(80)]}]))
    named = policy(
        "s", S, ingress=[{"from": [pods(pod="a"), pods(pod="t")], "ports": [port(80), port("web")]}]
    )
    (name,) = (n for n in sets_that_come(stage, named) if f"DST-{int(family)}-" in n)
    with taken(stage, name, family):
        assert tell(stage, named).pending
        stage.expect(f"{here}a t -> s: tcp/80", denied=f"{here}a t -> s: tcp/81 tcp/8000 udp/53")
    assert sync(stage).faults == ()
    stage.expect("a t -> s: tcp/80 tcp/81", denied="a t -> s: tcp/8000 udp/53")


@pytest.mark.parametrize("direction", Direction)
def test_pods_are_judged_where_the_set_of_isolated_addresses_cannot_be_made(
    stage: Stage, family: Family, direction: Direction
) -> None:
    here = f"IPv{int(family)} "
    stage.given()
    assert stage.backend is not None
    stage.backend.close()
    stage.backend = None
    with stage.kernel():
        from agent.dataplane.iptables import cleanup

        for mode in ("nft", "legacy"):
            assert cleanup.remove(mode, Family) == []
        assert cleanup.remove_sets() == []
    with taken(stage, names.isolated_set(direction, family), family):
        with contextlib.suppress(AssertionError):
            stage.given(policy("s", S, ingress=[A]), policy("t", T, egress=[TO_A], types=["Egress"]))
        assert sync(stage).pending
        stage.expect(
            f"{here}a -> s",
            f"{here}t -> a",
            f"{here}s -> b",
            f"{here}a -> b",
            denied=[f"{here}b -> s", f"{here}t -> b"],
        )
        newly = policy("b", labels(pod="b"), ingress=[A], egress=[], types=["Ingress", "Egress"])
        lost, kept = (f"{here}s -> b", f"{here}b -> a")
        if direction is Direction.EGRESS:
            lost, kept = kept, lost
        with refused():
            # The tree does not lead to it yet, and no set says that it is isolated.
            assert tell(stage, newly).pending
            stage.expect(f"{here}a -> s", f"{here}t -> a", denied=[lost, f"{here}b -> s"])
            tell(stage, Delete(Kind.POLICY, Key("x", "b")))
        assert sync(stage).pending
        stage.expect(lost, kept)
    assert sync(stage).faults == ()
    stage.expect("a -> s", "t -> a", "s -> b", denied=["b -> s", "t -> b"])


@pytest.mark.parametrize("kind", ["hash:ip timeout 1", "bitmap:ip range 192.0.2.0/24"])
def test_a_set_that_somebody_swapped_for_one_of_another_shape_is_replaced(stage: Stage, kind: str) -> None:
    """Rules keep a set from being destroyed and renamed, but not from being swapped."""
    stage.given(policy("s", S, ingress=[A]))
    assert stage.backend is not None
    family = Family.V4
    isolated = names.isolated_set(Direction.INGRESS, family)
    peers = [names.peer_set(found) for found in stage.engine.lowered.sets if found.family is family]
    theirs = {name: f"theirs-{number}" for number, name in enumerate((isolated, *peers))}
    for name, other in theirs.items():
        stage.near.run("ipset", "create", other, *kind.split())
        stage.near.run("ipset", "swap", other, name)
    with stage.kernel():
        assert stage.backend.audit(stage.engine.lowered)
        assert sync(stage).faults == ()
        time.sleep(1.5)
        assert stage.backend.audit(stage.engine.lowered) == []
    for other in theirs.values():
        stage.near.run("ipset", "destroy", other)
    stage.expect("a -> s", denied="b -> s")
    stage.tidy()
    with stage.kernel():
        assert stage.backend.audit(stage.engine.lowered) == []
    stage.expect("a -> s", denied="b -> s")
