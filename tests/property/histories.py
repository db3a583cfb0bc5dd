"""Random histories: what happens to the objects of a small cluster, batch after batch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from agent.kube.events import Delete, Event, Invalid, Problem, Synced, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy
from agent.net import Protocol
from agent.policy.budget.limits import DEFAULT, Budgets, NamespaceBudget, PolicyBudget
from agent.spec.verdict import Packet
from tests.property import pieces
from tests.property.choices import Choices, Maker, either
from tests.property.words import CORNERS, FEW, HERE, ICMP, THERE, Words


class Batch(NamedTuple):
    """Events that come together, and the seconds that passed since the batch before."""

    seconds: float
    events: tuple[Event, ...]


def history(choices: Choices) -> list[Batch]:
    """Return a cluster's beginning, and up to six batches of what happens then."""
    words = choices.one_of((FEW, FEW, FEW, CORNERS))
    beginning = choices.several(partial(upsert, words=words), 4, 12)
    return [Batch(0.0, tuple(beginning)), *choices.several(partial(batch, words=words), 0, 6)]


def batch(choices: Choices, words: Words) -> Batch:
    seconds = choices.one_of((0.0, 1.0, 59.0, 61.0))
    return Batch(seconds, tuple(choices.several(partial(event, words=words), 0, 6)))


def event(choices: Choices, words: Words) -> Event:
    coming: Maker[Event] = partial(upsert, words=words)
    return either(
        choices,
        coming,
        coming,
        partial(_delete, words=words),
        partial(_invalid, words=words),
        lambda choices: Synced(choices.one_of(tuple(Kind))),
    )


def upsert(choices: Choices, words: Words) -> Upsert:
    kind = choices.one_of((Kind.POD, Kind.POD, Kind.POLICY, Kind.POLICY, Kind.NAMESPACE, Kind.NODE))
    if kind is Kind.POD:
        return Upsert(kind, pieces.pod(choices, words))
    if kind is Kind.POLICY:
        return Upsert(kind, pieces.policy(choices, words))
    if kind is Kind.NAMESPACE:
        return Upsert(kind, pieces.namespace(choices, words))
    return Upsert(kind, pieces.node(choices, words))


def _delete(choices: Choices, words: Words) -> Delete:
    kind = choices.one_of((Kind.POD, Kind.POLICY, Kind.NAMESPACE, Kind.NODE))
    if kind is Kind.POD:
        return Delete(kind, pieces.pod_key(choices, words))
    if kind is Kind.POLICY:
        return Delete(kind, pieces.policy_key(choices, words))
    names = (*words.namespaces, words.unknown) if kind is Kind.NAMESPACE else (HERE, THERE)
    return Delete(kind, Key("", choices.one_of(names)))


def _invalid(choices: Choices, words: Words) -> Invalid:
    """Return a policy that is refused: what it selects can be read, or not even that."""
    key = pieces.policy_key(choices, words)
    closed = None
    if choices.one_of((False, True)):
        egress = choices.one_of(((), None))
        closed = NetworkPolicy(
            key.namespace,
            key.name,
            pieces.selector(choices, words),
            (),
            egress,
            staging=pieces.staging(choices),
        )
    return Invalid(Kind.POLICY, key, (Problem("spec", "wrong"),), closed)


def deletes(told: Iterable[Event]) -> list[Event]:
    """Return the end of everything that events told of."""
    keys: dict[tuple[Kind, Key], None] = {}
    for event in told:
        if isinstance(event, Upsert):
            keys[event.kind, event.object.key] = None
        elif isinstance(event, Invalid):
            keys[event.kind, event.key] = None
    return [Delete(kind, key) for kind, key in keys]


def probe(choices: Choices) -> Packet:
    """Return a packet between two addresses that any history may have pods at."""
    words = choices.one_of((FEW, FEW, FEW, CORNERS))
    pool = choices.one_of((words.addresses_4, words.addresses_6))
    source, destination = choices.one_of(pool), choices.one_of(pool)
    protocol = choices.one_of((*map(int, Protocol), ICMP))
    return Packet(source, destination, protocol, choices.one_of((*words.numbers, 0, 79)))


# --- Budgets ------------------------------------------------------------------------------------------------


def budgets(choices: Choices) -> Budgets:
    """Return budgets, mostly so small that some policies are over them."""
    if choices.one_of((True, False)):
        return DEFAULT
    return Budgets(
        PolicyBudget(choices.integer(0, 40), choices.integer(0, 8), choices.integer(0, 8), 1_000_000),
        NamespaceBudget(
            choices.integer(0, 3),
            choices.integer(0, 100),
            choices.integer(0, 12),
            choices.integer(0, 12),
            1_000_000,
        ),
    )


def member_budgets(choices: Choices) -> Budgets:
    """Return budgets of members alone.

    How these close and open policies depends on what was, so not every test can take them.
    """
    return Budgets(
        PolicyBudget(members=choices.integer(0, 20)), NamespaceBudget(members=choices.integer(0, 40))
    )
