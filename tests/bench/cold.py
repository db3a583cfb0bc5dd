"""From the start of the agent's process to the first packet denied, and to ready."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

from tests.bench.arena import Arena
from tests.bench.beam import beam
from tests.bench.changes import isolating
from tests.bench.result import Result, summary
from tests.lab.place import LabError

_SECONDS = 300.0
_LOOK_SECONDS = 0.01
_ROUNDS = 10


def cold(arena: Arena) -> Iterator[Result]:
    """Start the agent again and again on a node whose kernel holds nothing of it."""
    enforcing, ready = [], []
    rounds = max(2, min(_ROUNDS, arena.settings.rounds // 5))
    with (
        arena.policy("standing", isolating()),
        beam(arena.client_pod, arena.target, arena.target.v4) as packets,
    ):
        for done in range(rounds):
            arena.stop_agent(signal.SIGKILL)
            arena.clean_kernel()
            packets.wait(passes=True)
            begin = arena.start_agent()
            deadline = time.monotonic() + _SECONDS
            while not arena.is_ready():
                arena.agent  # noqa: B018 - raises when it has ended
                if time.monotonic() > deadline:
                    raise LabError(f"not ready after {_SECONDS:.0f} s:\n{arena.agent.tail()}")
                packets.take()
                time.sleep(_LOOK_SECONDS)
            ready.append((time.monotonic_ns() - begin) / 1e6)
            enforcing.append((packets.wait(passes=False, since_ns=begin) - begin) / 1e6)
            arena.say(f"cold start {done + 1} of {rounds}: {enforcing[-1]:.0f} ms")
    yield summary("cold", "start to the first packet denied", "ms", enforcing, size=arena.size)
    yield summary("cold", "start to ready", "ms", ready, size=arena.size)
