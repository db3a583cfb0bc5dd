"""What a change would do to connections that were seen: which it would cut, and which it would open."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence

import msgspec

from agent.dataplane.logged import Decided
from agent.kube.model import Key
from agent.net import Direction, family_of
from agent.observe.flows.why import reason
from agent.observe.replay.judging import Judge
from agent.observe.replay.seen import Seen, Sort, service_text
from agent.spec.verdict import DirectionVerdict, Packet, Verdict


class Half(msgspec.Struct, frozen=True):
    """One direction that decides: of the pod, by policies, and for what is allowed by rules.

    ``rules`` are those that allow it, as ``policy[number]``. ``why`` is one line for people.
    """

    pod: str
    direction: Direction
    policies: tuple[str, ...]
    rules: tuple[str, ...]
    why: str


class Moved(msgspec.Struct, frozen=True):
    """Connections of one sort whose verdict the change turns. Pods are empty where an address is no pod's."""

    source: str
    source_pod: str
    destination: str
    destination_pod: str
    port: str
    tracked: int
    logged: int
    halves: tuple[Half, ...]

    @property
    def total(self) -> int:
        return self.tracked + self.logged


class Replayed(msgspec.Struct, frozen=True):
    """The result. ``nodes``: who has told of connections; empty where only a log was read.

    ``changes`` are the policies, each with what becomes of it. ``seen`` counts the sorts of connection,
    ``tracked`` and ``logged`` those behind them. ``cut`` would be denied and were allowed, ``opened`` the
    other way round. ``unjudged``: how many sorts were not judged, by the reason. ``missing``: what could not
    be looked at, a line each: nothing is said of it.
    """

    nodes: tuple[str, ...]
    changes: tuple[str, ...]
    seen: int
    tracked: int
    logged: int
    cut: tuple[Moved, ...]
    opened: tuple[Moved, ...]
    unjudged: dict[str, int]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 where something that was seen would be cut, else 2 where not all could be looked at, else 0."""
        if self.cut:
            return 1
        return 2 if self.missing else 0


def replay(
    before: Judge,
    after: Judge,
    seen: Sequence[Seen],
    *,
    namespaces: Container[str],
    changes: Iterable[str] = (),
    nodes: Iterable[str] = (),
    notes: Iterable[str] = (),
    missing: Iterable[str] = (),
) -> Replayed:
    """Judge what was seen by the objects before and after a change.

    ``namespaces``: those of the policies that change. A policy is about pods of its own namespace, so no
    other connection is judged.
    """
    cut: list[Moved] = []
    opened: list[Moved] = []
    unjudged: Counter[str] = Counter()
    for one in seen:
        packet = packet_of(before, one.sort)
        if isinstance(packet, str):
            unjudged[packet] += 1
            continue
        owners = map(before.owner, packet[:2])
        if not any(pod is not None and pod.namespace in namespaces for pod in owners):
            continue
        was, will = before.judge(packet), after.judge(packet)
        # Between a pod and its own node nothing is judged, so none of it is among what was seen.
        if was.allowed is will.allowed:
            continue
        (opened if will.allowed else cut).append(_moved(one, was, will))
    return Replayed(
        nodes=tuple(nodes),
        changes=tuple(changes),
        seen=len(seen),
        tracked=sum(one.tracked for one in seen),
        logged=sum(one.logged for one in seen),
        cut=tuple(cut),
        opened=tuple(opened),
        unjudged=dict(unjudged),
        notes=tuple(notes),
        missing=tuple(missing),
    )


GONE = "a pod of theirs is gone"
REUSED = "an address of theirs is now another pod's"


def packet_of(judge: Judge, sort: Sort) -> Packet | str:
    """Return the first packet of such a connection between the pods as they are now; or why there is none.

    A pod that has another address by now, as one of a StatefulSet that was made anew, is judged with that.
    """
    source = _address(judge, sort.source, sort.source_pod)
    destination = _address(judge, sort.destination, sort.destination_pod)
    for end in (source, destination):
        if isinstance(end, str):
            return end
    assert isinstance(source, bytes)  # noqa: S101 - narrows the type
    assert isinstance(destination, bytes)  # noqa: S101
    return Packet(source, destination, sort.protocol, sort.port)


def _address(judge: Judge, text: str, name: str) -> bytes | str:
    address = ipaddress.ip_address(text).packed
    owner = judge.owner(address)
    if not name:
        return address if owner is None else REUSED
    key = Key.of(name)
    if owner is not None and owner.key == key:
        return address
    pod = judge.pod(key)
    for other in pod.addresses if pod is not None and pod.judged else ():
        owner = judge.owner(other) if family_of(other) is family_of(address) else None
        if owner is not None and owner.key == key:
            return other
    return GONE


def _moved(seen: Seen, was: Verdict, will: Verdict) -> Moved:
    sort = seen.sort
    return Moved(
        sort.source,
        sort.source_pod,
        sort.destination,
        sort.destination_pod,
        service_text(sort),
        seen.tracked,
        seen.logged,
        tuple(_halves(was, will)),
    )


def _halves(was: Verdict, will: Verdict) -> Iterator[Half]:
    """Give the directions that the change turns."""
    for direction in Direction:
        old, new = was.direction(direction), will.direction(direction)
        if old.allowed is new.allowed or new.pod is None:
            continue
        told = reason(new, Decided.ALLOWED if new.allowed else Decided.DENIED)
        why = told.why if new.isolated else new.why
        yield Half(str(new.pod), direction, _policies(new), told.rules, why)


def _policies(verdict: DirectionVerdict) -> tuple[str, ...]:
    return tuple(str(found.policy) for found in verdict.policies)
