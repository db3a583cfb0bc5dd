"""Every named case: by the evaluator, by a program's definition, and by the kernel with real packets."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from agent.kube.events import Upsert
from agent.kube.model import Kind, NetworkPolicy, Object, Pod
from agent.net import Direction
from agent.policy.engine import Engine
from agent.spec.cluster import cluster_of
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.cases import DIRECTORY, State, states
from tests.kernel.exact.enforcer import Enforcer
from tests.kernel.exact.plan import expect
from tests.lab.backends import BackendKind
from tests.lab.probe import Verdict
from tests.property.interpreter import program_allows
from tests.property.words import HERE

CASES = sorted(DIRECTORY.glob("*.yaml"))
EACH_CASE = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)


@EACH_CASE
def test_the_evaluator_says_what_the_case_does(path: Path) -> None:
    for state in states(path):
        cluster = cluster_of(state.objects)
        assert {packet: expect(cluster, packet).passes for packet in state.expected} == state.expected


@EACH_CASE
def test_the_program_says_what_the_case_does(path: Path) -> None:
    for state in states(path):
        engine = Engine(HERE)
        engine.apply([Upsert(_kind(o), o) for o in state.objects], 0.0)
        found = {
            packet: all(program_allows(engine.lowered, direction, packet) for direction in Direction)
            for packet in state.expected
        }
        assert found == state.expected


@EACH_CASE
def test_the_kernel_does_what_the_case_says(arena: Arena, backend: BackendKind, path: Path) -> None:
    """After a fresh start on each state, and after a change from each to the next."""
    enforcer = Enforcer(arena, backend)
    try:
        for state in states(path):
            enforcer.move(state.objects, Random(0))
            _assert_holds(arena, state)
        for state in states(path):
            enforcer.start_over(state.objects)
            _assert_holds(arena, state)
        enforcer.empty()
    finally:
        enforcer.close()


def _assert_holds(arena: Arena, state: State) -> None:
    verdicts = arena.probe(list(state.expected))
    found = dict(zip(state.expected, (v is Verdict.ALLOWED for v in verdicts), strict=True))
    assert found == state.expected


def _kind(found: Object) -> Kind:
    if isinstance(found, Pod):
        return Kind.POD
    return Kind.POLICY if isinstance(found, NetworkPolicy) else Kind.NAMESPACE
