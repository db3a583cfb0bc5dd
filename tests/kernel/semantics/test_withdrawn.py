"""A pod whose network goes while the agent is behind: its address opens for nobody.

The whole agent but for the API server, on a real kernel. Results of network plugins are real files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.tables import tables
from agent.dataplane.iptables.tables.tables import Tables
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind, Namespace, Pod
from agent.net import Family, Member
from agent.runtime.backlog import NEAR
from tests.kernel.semantics.stage import Stage
from tests.kernel.semantics.withdrawing import CLOSED, Node, running
from tests.kernel.semantics.written import labels, policy
from tests.lab.cluster import wait_until

_OPEN = ("a -> t: tcp/80", "t -> b: tcp/80")
LATE = Pod("x", "late", uid="uid-late", labels={"pod": "late"}, node="near", created="2026-01-01T00:00:00Z")


@pytest.fixture
def node(stage: Stage, tmp_path: Path) -> Iterator[Node]:
    with running(stage, tmp_path, closing=True) as made:
        stage.expect("a -> b: tcp/80", denied=CLOSED)
        yield made


@pytest.fixture
def open_node(stage: Stage, tmp_path: Path) -> Iterator[Node]:
    with running(stage, tmp_path, closing=False) as made:
        yield made


class Slow:
    """Has commands that write rules wait for as long as a test wants."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._flag = directory / "flag"
        self._started = 0

    def begin(self) -> None:
        """Have commands wait from now on."""
        self._flag.touch()

    def end(self) -> None:
        """Let them go on, and wait until those that have been started have ended."""
        self._flag.unlink()
        wait_until(lambda: len(list(self._directory.glob("ended-*"))) == self._started)

    def command(self, command: list[str]) -> list[str]:
        """Return a command, to be started once, that waits and then does what the given one does."""
        self._started += 1
        wait = f"while [ -e {self._flag} ]; do sleep 0.02; done"
        ended = f"{self._directory}/ended-{self._started}"
        return ["sh", "-c", f'{wait}; "$@"; code=$?; touch {ended}; exit $code', "sh", *command]


@pytest.fixture
def slow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow(tmp_path_factory.mktemp("slow"))
    restoring = Tables._restoring

    def late(which: Tables, family: Family) -> list[str]:
        return made.command(restoring(which, family))

    monkeypatch.setattr(Tables, "_restoring", late)
    # None is killed for having waited, however long a busy machine takes meanwhile.
    monkeypatch.setattr(tables, "COMMAND_SECONDS", 600)
    return made


def _busy() -> list[Event]:
    """Events of more namespaces than have their turn at once."""
    return [Upsert(Kind.NAMESPACE, Namespace(f"n{number}")) for number in range(2 * NEAR)]


def _judged_in_between(stage: Stage, node: Node) -> list[int]:
    """Have the address be seen closed after each step that does not finish what was taken; count these."""
    steps: list[int] = []

    def look(events: list[Event]) -> None:
        if events and len(steps) < 4:
            stage.expect("a -> b: tcp/80", denied=CLOSED)
            steps.append(len(events))

    node.agent._reconcile.stepped = look
    return steps


@pytest.mark.guarantee("1.5")
def test_an_address_opens_for_no_pod_that_has_ended_before_its_turn(stage: Stage, node: Node) -> None:
    """The loop takes both at once, what the pod was given and that it is gone, and makes a step of each."""
    node.tell(Upsert(Kind.POD, LATE))
    node.settle()
    node.has(LATE, stage)
    node.loses(LATE)
    node.tell(*_busy())
    steps = _judged_in_between(stage, node)
    node.settle()
    assert len(steps) > 2
    stage.expect("a -> b: tcp/80", denied=CLOSED)


@pytest.mark.guarantee("1.5")
def test_an_address_opens_for_no_pod_that_has_ended_while_a_command_was_slow(
    stage: Stage, node: Node, slow: Slow
) -> None:
    """The command writes its rules, and ends when the loop has taken that the pod has ended."""
    node.tell(Upsert(Kind.POD, LATE), Upsert(Kind.POLICY, policy("late", labels(pod="late"), ingress=[{}])))
    node.settle()
    slow.begin()
    node.has(LATE, stage)
    node.agent.turn()
    assert node.is_busy()
    node.tell(*(Upsert(Kind.NAMESPACE, Namespace("x", {"team": str(n)})) for n in range(8 * NEAR)))
    node.loses(LATE)
    backlog, steps = node.agent._reconcile._backlog, list[bool]()

    def look(_events: list[Event]) -> None:
        if not steps:
            slow.end()
        # Other news let the loop look after the command, which has ended now.
        steps.append(True)
        node.tell(*_busy()[:1])

    node.agent._reconcile.stepped = look
    node.until_idle()
    assert backlog.waits_in(LATE.namespace)
    stage.expect("a -> b: tcp/80", denied=CLOSED)
    node.agent._reconcile.stepped = lambda _: None
    node.settle()
    stage.expect("a -> b: tcp/80", denied=CLOSED)


@pytest.mark.guarantee("1.5")
def test_an_address_stays_closed_if_its_pod_is_told_after_its_network_has_ended(
    stage: Stage, node: Node
) -> None:
    """The watch is behind: it tells the pod, and that it has the address, when it is somebody else's."""
    node.has(LATE, stage, told=False)
    node.loses(LATE, told=False)
    node.tell(Upsert(Kind.POD, LATE))
    node.settle()
    t = stage.pod("t").addresses
    node.tell(Upsert(Kind.POD, replace(LATE, addresses=t)))
    node.settle()
    stage.expect("a -> b: tcp/80", denied=CLOSED)
    node.has(LATE, stage)
    node.settle()
    stage.expect(*_OPEN)


def test_a_pod_that_gets_its_address_again_at_once_has_it(stage: Stage, node: Node) -> None:
    """Its sandbox is made anew while the loop is behind, and the network plugin gives the same address."""
    node.tell(Upsert(Kind.POD, LATE))
    node.has(LATE, stage)
    node.settle()
    stage.expect(*_OPEN)
    node.loses(LATE)
    node.has(LATE, stage)
    node.settle()
    stage.expect(*_OPEN)


@pytest.mark.guarantee("1.3")
def test_the_next_pod_has_an_address_though_the_end_of_the_last_one_waits(stage: Stage, node: Node) -> None:
    """It is of a namespace that has its turn before."""
    node.tell(Upsert(Kind.POD, LATE))
    node.has(LATE, stage)
    node.settle()
    other = Pod("y", "other", uid="uid-other", node="near", created=LATE.created)
    node.tell(Upsert(Kind.POD, other))
    node.settle()
    node.tell(*(Upsert(Kind.NAMESPACE, Namespace("x", {"team": str(n)})) for n in range(3 * NEAR)))
    node.loses(LATE)
    node.has(other, stage)
    steps: list[bool] = []

    def look(events: list[Event]) -> None:
        if not steps and any(isinstance(e, Upsert) and e.object.key == other.key for e in events):
            assert node.agent._reconcile._backlog.waits_in(LATE.namespace)
            stage.expect(*_OPEN)
            steps.append(True)

    node.agent._reconcile.stepped = look
    node.settle()
    assert steps
    stage.expect(*_OPEN)


@pytest.mark.guarantee("1.5")
def test_an_address_that_is_withdrawn_just_as_it_is_to_open_stays_closed(
    stage: Stage, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread closes it after the loop has found that it may open, and before the loop opens it."""
    node.tell(Upsert(Kind.POD, LATE))
    node.settle()
    _before_a_set(monkeypatch, stage.pod("t").addresses[0], lambda: node.loses(LATE))
    seen: list[int] = []

    def look(events: list[Event]) -> None:
        if events and not seen:
            seen.append(len(events))
            stage.expect("a -> b: tcp/80", denied=CLOSED)

    node.agent._reconcile.stepped = look
    node.has(LATE, stage)
    node.settle()
    assert seen
    stage.expect("a -> b: tcp/80", denied=CLOSED)


@pytest.mark.guarantee("1.5")
def test_an_address_that_is_withdrawn_again_just_as_it_is_to_open_stays_shut(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = policy("late", labels(pod="t"), ingress=[{}], egress=[{}], types=["Ingress", "Egress"])
    stage.given(every)
    backend = stage.backend
    assert backend is not None
    gone = stage.pod("t").addresses
    followed: list[None] = []
    with stage.kernel():
        backend.withdraw(gone, lambda _: True)
        _before_a_set(monkeypatch, gone[0], lambda: backend.withdraw(gone, lambda _: bool(followed)))
        backend.upkeep()
    stage.expect("a -> b: tcp/80", denied=CLOSED)
    followed.append(None)
    with stage.kernel():
        backend.upkeep()
        assert backend.audit(stage.engine.lowered) == []
    stage.expect(*_OPEN)


def _before_a_set(monkeypatch: pytest.MonkeyPatch, address: bytes, what: Callable[[], None]) -> None:
    """Have something happen just before the loop has an address enter a set, or leave it, the first time."""
    real = KernelSets.change
    left = [what]

    def change(sets: KernelSets, moved: Mapping[str, tuple[set[Member], set[Member]]], *rest: Any) -> Any:
        if left and any(address in members for both in moved.values() for members in both):
            left.pop()()
        return real(sets, moved, *rest)

    monkeypatch.setattr(KernelSets, "change", change)


@pytest.mark.guarantee("1.5")
@pytest.mark.both_modes
def test_an_isolated_address_is_shut_on_another_thread_and_opens_when_the_program_has_followed(
    stage: Stage,
) -> None:
    """Without a delta: the pod has it again already, as far as the program can tell."""
    every = policy("late", labels(pod="t"), ingress=[{}], egress=[{}], types=["Ingress", "Egress"])
    stage.given(every)
    stage.expect(*_OPEN)
    assert stage.backend is not None
    followed: list[None] = []
    gone = stage.pod("t").addresses
    with stage.kernel():
        thread = threading.Thread(target=stage.backend.withdraw, args=(gone, lambda _: bool(followed)))
        thread.start()
        thread.join()
    stage.expect("a -> b: tcp/80", denied=CLOSED)
    followed.append(None)
    with stage.kernel():
        stage.backend.upkeep()
    stage.expect(*_OPEN)
    followed.clear()
    with stage.kernel():
        stage.backend.withdraw(gone, lambda _: bool(followed))
        stage.backend.sync(stage.engine.lowered)
        stage.backend.upkeep()
    stage.expect("a -> b: tcp/80", denied=CLOSED)
    followed.append(None)
    with stage.kernel():
        stage.backend.upkeep()
        assert stage.backend.audit(stage.engine.lowered) == []
    stage.expect(*_OPEN)


@pytest.mark.guarantee("1.5")
@pytest.mark.parametrize("isolated", [True, False], ids=["isolated", "not isolated"])
def test_where_new_pods_are_open_what_was_isolated_is_closed_until_another_pod_has_it(
    stage: Stage, open_node: Node, isolated: bool
) -> None:
    """Whatever the loop does meanwhile. What was open stays so: the next pod may run already."""
    node = open_node
    every = policy("late", labels(pod="late"), ingress=[{}], egress=[{}], types=["Ingress", "Egress"])
    node.tell(Upsert(Kind.POD, LATE), *([Upsert(Kind.POLICY, every)] if isolated else []))
    other = Pod("y", "other", uid="uid-other", node="near", created=LATE.created)
    node.tell(Upsert(Kind.POD, other))
    node.has(LATE, stage)
    node.settle()
    stage.expect(*_OPEN)
    node.loses(LATE)
    # The loop has not been told yet.
    stage.expect(*(() if isolated else _OPEN), denied=CLOSED if isolated else ())
    node.settle()
    stage.expect(*(() if isolated else _OPEN), denied=CLOSED if isolated else ())
    assert node.nothing_differs()
    node.has(other, stage)
    node.settle()
    stage.expect(*_OPEN)
    assert node.nothing_differs()


def _next(stage: Stage, node: Node) -> Pod:
    """Have a pod be isolated that admits everybody; return another one that will be, in another namespace."""
    every = policy("late", labels(pod="late"), ingress=[{}], egress=[{}], types=["Ingress", "Egress"])
    mine = policy("other", labels(pod="other"), ns="y", ingress=[{}])
    other = Pod("y", "other", uid="uid-other", labels={"pod": "other"}, node="near", created=LATE.created)
    node.tell(*(Upsert(Kind.POD, one) for one in (LATE, other)))
    node.tell(*(Upsert(Kind.POLICY, one) for one in (every, mine)))
    node.has(LATE, stage)
    node.settle()
    stage.expect(*_OPEN)
    return other


@pytest.mark.guarantee("1.5")
def test_the_next_pod_is_judged_by_its_own_policies_once_they_are_written(
    stage: Stage, open_node: Node
) -> None:
    """The loop has much to write before it comes to either."""
    node = open_node
    other = _next(stage, node)
    writes = [policy(f"p{n}", labels(pod="c"), ns=ns, ingress=[{}]) for n in range(NEAR) for ns in "xy"]
    node.tell(*(Upsert(Kind.POLICY, one) for one in writes))
    node.loses(LATE)
    node.has(other, stage)
    steps: list[bool] = []

    def look(events: list[Event]) -> None:
        if events and not any(steps):
            steps.append(any(isinstance(e, Upsert) and e.object.key == other.key for e in events))
            if not steps[-1]:
                stage.expect(denied=CLOSED)

    node.agent._reconcile.stepped = look
    node.settle()
    assert steps[0] is False
    assert steps[-1] is True
    stage.expect(*_OPEN)
    assert node.nothing_differs()


@pytest.mark.guarantee("1.5")
def test_an_address_stays_closed_while_a_command_is_slow_that_takes_it_from_the_rules(
    stage: Stage, open_node: Node, slow: Slow
) -> None:
    node = open_node
    other = _next(stage, node)
    slow.begin()
    node.loses(LATE)
    node.agent.turn()
    assert node.is_busy()
    stage.expect(denied=CLOSED)
    node.has(other, stage)
    node.agent.turn()
    assert node.is_busy()
    stage.expect(denied=CLOSED)
    slow.end()
    node.settle()
    stage.expect(*_OPEN)
    assert node.nothing_differs()
