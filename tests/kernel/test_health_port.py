"""Whatever clients do at the health port, policy is written and probes are answered."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.observe.connections import MOST
from tests.kernel.guarded import ALLOW_PORT, DENY_ALL, PORT, Guarded
from tests.lab.cluster import HEALTH_PORT, http_get, wait_until
from tests.lab.probe import Verdict
from tests.patience import PATIENCE
from tests.workers import grouped

CLIENTS = 1300
FEW = 160
"""Descriptors of an agent that may have few; a process has 1,024 as a rule."""


@contextlib.contextmanager
def crowded(guarded: Guarded, seconds: float) -> Iterator[None]:
    """Have many clients hold connections to the health port of the node, from the node itself."""
    command = [sys.executable, "-m", "tests.kernel.crowding", "127.0.0.1", str(HEALTH_PORT)]
    with guarded.node.netns.entered():
        clients = subprocess.Popen(
            [*command, str(CLIENTS), str(seconds)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    assert clients.stdout
    clients.stdout.readline()
    try:
        yield
    finally:
        clients.communicate(timeout=PATIENCE)


def start(guarded: Guarded, soft: int, hard: int) -> None:
    """Start the agent with a limit of descriptors, which it has before it does anything."""
    guarded.start(forked=False, module=("tests.kernel.limited", str(soft), str(hard), "agent"))


@pytest.fixture(scope="module", params=grouped("health-port", [1024, FEW]))
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    with Guarded("routed", "nft") as found:
        found.say("policy", DENY_ALL)
        start(found, request.param, request.param)
        yield found


def descriptors(guarded: Guarded) -> int:
    return len(os.listdir(f"/proc/{guarded.agent.process.pid}/fd"))


def descriptors_at_rest(guarded: Guarded) -> int:
    """Return how many there are when half a second changes nothing: some are opened just after the start."""
    seen = [descriptors(guarded)]

    def same() -> bool:
        seen.append(descriptors(guarded))
        return seen[-1] == seen[-2]

    wait_until(same, interval=0.5)
    return seen[-1]


@pytest.mark.parametrize("seconds", [4.0, 0.1])
def test_policy_is_written_and_probes_are_answered_while_many_hold_connections(
    guarded: Guarded, seconds: float
) -> None:
    quiet = descriptors_at_rest(guarded)
    with crowded(guarded, seconds):
        for text, verdict in ((ALLOW_PORT, Verdict.ALLOWED), (DENY_ALL, Verdict.DENIED)) * 3:
            guarded.say("policy", text)
            guarded.wait_for(verdict, PORT)
            assert http_get(guarded.node, "/readyz", timeout=PATIENCE)[0] == 200
            # What a command of the agent has open comes and goes.
            assert descriptors(guarded) <= quiet + MOST + 24
    # On a busy machine the agent may have said that a command takes long.
    assert not re.search("Traceback|[Tt]oo many open files|internal error", guarded.agent.tail())
    wait_until(lambda: descriptors(guarded) <= quiet + 2)


def test_the_limit_of_descriptors_is_raised_to_what_is_permitted(guarded: Guarded) -> None:
    guarded.stop()
    start(guarded, FEW // 2, FEW)
    assert resource.prlimit(guarded.agent.process.pid, resource.RLIMIT_NOFILE) == (FEW, FEW)
