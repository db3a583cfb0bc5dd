"""What the record says, and what packets meet, when writes fail in every way that there is, one on another.

Commands are refused, take long, or are killed, so that nobody knows what they did; sets are not made; members
are not written; connections are not forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.held import Revision
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import chain_writer
from agent.policy.engine import Engine
from tests.property import histories
from tests.property.choices import Seeded
from tests.property.histories import Batch
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.test_steps import HISTORIES, few_at_once, packets, patch, verdict
from tests.property.words import FEW, HERE

__all__ = ["patch"]


def record_is_true(backend: IptablesBackend, kernel: Kernel) -> None:
    """Compare the record with the kernel; a chain that it doubts may be any that it holds possible."""
    chains, sets = backend._held.chains, backend._held.sets
    for family, table in kernel.tables.items():
        ours = {chain: rules for chain, rules in table.items() if names.is_ours(chain)}
        possible = chains.possible(family)
        for chain in ours.keys() | chains.held[family].keys():
            if chain in chains.known(family):
                assert ours.get(chain) == chains.held[family][chain], chain
            else:
                assert chain not in ours or any(each.get(chain) == ours[chain] for each in possible), chain
    in_kernel = {name: shape for name, (shape, _) in kernel.sets.items()}
    assert sets.shapes == in_kernel
    assert sets.garbage <= in_kernel.keys()


class Scene(NamedTuple):
    """An agent that has written the program of an empty cluster, and the random choices of one example."""

    random: Random
    engine: Engine
    kernel: Kernel
    backend: IptablesBackend
    interrupted: Callable[[], bool]


def synced(patch: pytest.MonkeyPatch, allow_nodes: bool, seed: int) -> Scene:
    random = Random(seed)
    few_at_once(patch, random)
    patch.setattr(chain_writer, "PART", random.choice((3, 1000)))
    engine = Engine(HERE, allow_nodes=allow_nodes)
    kernel = Kernel()
    backend = make_backend(kernel, patience=1.0)
    assert not backend.sync(engine.lowered).faults
    return Scene(random, engine, kernel, backend, lambda: random.random() < 0.5)


@given(HISTORIES, st.booleans(), st.sampled_from((0.1, 0.4)), st.integers(0, 1 << 32))
def test_the_record_says_what_the_kernel_holds_whatever_failed(
    patch: pytest.MonkeyPatch, history: list[Batch], allow_nodes: bool, often: float, seed: int
) -> None:
    random, engine, kernel, backend, interrupted = synced(patch, allow_nodes, seed)
    found = packets(random)
    now = 0.0

    for batch in history:
        now += batch.seconds
        delta = engine.apply(batch.events, now)
        kernel.fails = lambda: random.random() < often
        kernel.slow = lambda: random.random() < 0.5
        kernel.soon = lambda: random.choice((0.0, math.inf))
        kernel.killed = lambda: random.random() < often
        backend.apply(engine.lowered, delta, interrupted)
        while backend.busy and random.random() < 0.7:
            report = backend.resume(engine.lowered, interrupted)
            if backend.busy and not report.waiting and random.random() < 0.5:
                backend.sync(engine.lowered)
        if not backend.busy:
            record_is_true(backend, kernel)
            random.choice((backend.sync, backend.tidy))(engine.lowered)
        if not backend.busy:
            record_is_true(backend, kernel)
    kernel.fails = kernel.slow = kernel.killed = lambda: False
    while backend.busy:
        backend.resume(engine.lowered)
    record_is_true(backend, kernel)
    report = backend.sync(engine.lowered)
    assert not report.faults
    assert not report.standing
    assert not backend.tidy(engine.lowered).faults
    record_is_true(backend, kernel)
    assert backend.audit(engine.lowered) == []
    for packet in found:
        assert kernel.passes(packet) == verdict(engine.lowered, packet), packet


@given(HISTORIES, st.booleans(), st.sampled_from((0.2, 0.6)), st.integers(0, 1 << 32))
def test_what_is_taken_away_is_gone_whatever_becomes_of_commands(
    patch: pytest.MonkeyPatch, history: list[Batch], allow_nodes: bool, often: float, seed: int
) -> None:
    random, engine, kernel, backend, interrupted = synced(patch, allow_nodes, seed)
    found = packets(random)
    now = 0.0

    def look() -> None:
        for packet in found:
            assert verdict(engine.lowered, packet) or not kernel.passes(packet), packet

    for batch in history:
        now += batch.seconds
        delta = engine.apply(batch.events, now)
        kernel.unwritten = lambda: random.random() < often
        kernel.slow = lambda: random.random() < 0.5
        kernel.killed = lambda: random.random() < often
        backend.apply(engine.lowered, delta, interrupted)
        look()
        while backend.busy and random.random() < 0.7:
            report = backend.resume(engine.lowered, interrupted)
            if backend.busy and not report.waiting and random.random() < 0.5:
                backend.sync(engine.lowered)
            look()
        if not backend.busy and random.random() < 0.5:
            random.choice((backend.sync, backend.tidy))(engine.lowered)
            look()


@pytest.mark.parametrize("seed", range(60))
def test_a_change_that_meets_tidying_is_made_after_it_and_on_the_same_trees(seed: int) -> None:
    choices = Seeded(Random(seed))
    engine, kernel = Engine(HERE), Kernel()
    backend = make_backend(kernel, patience=1.0)
    engine.apply(choices.several(partial(histories.upsert, words=FEW), 6, 16), 0.0)
    assert not backend.sync(engine.lowered).faults
    for now, batch in enumerate(choices.several(partial(histories.batch, words=FEW), 8, 14), start=1):
        delta = engine.apply(batch.events, float(now))
        assert not backend.apply(engine.lowered, delta).faults
        if (put_off := backend._executor.pending) is not None:
            # The record knows of it, and may be changed by what is being made.
            assert put_off.revision == Revision()
            assert put_off.revision.drawn is None
        kernel.slow = lambda: False
        while backend.busy:
            assert not backend.resume(engine.lowered).faults
        assert backend.audit(engine.lowered) == []
        kernel.slow = lambda: True
        backend.tidy(engine.lowered)
