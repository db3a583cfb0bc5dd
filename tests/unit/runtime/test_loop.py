"""The main loop as a whole: it never spins nor hangs, and serves other threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.clock import SYSTEM
from agent.host.check import HostState
from agent.net import Family
from agent.observe.health import readyz
from agent.runtime.backends import ModeChoice
from agent.runtime.loop import Agent, World
from agent.settings import resolve
from tests.patience import PATIENCE
from tests.unit.runtime.events import deny, pod
from tests.unit.runtime.rig import FakeBackend, FakeSource, NoThread, Rig


def test_health_and_status_are_for_other_threads(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)

    def look() -> int:
        found = [look() for _ in range(50) for look in (rig.agent.health, rig.agent.status)]
        return len(found)

    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(look) for _ in range(4)]
        for number in range(1, 50):
            rig.source.sink([pod(number), deny(f"d{number}")])
            rig.turn()
        while not all(one.done() for one in looks):
            rig.turn()
        assert [one.result() for one in looks] == [100] * 4


def test_a_quiet_agent_turns_about_once_a_second(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.rest(1.0)
    assert rig.rest(100.0) <= 145


def test_stopping_is_prompt_and_lets_go_of_everything(rig: Rig) -> None:
    rig.agent.inbox.call(rig.agent.inbox.stop)
    rig.agent.run()
    assert rig.clock.now == type(rig.clock)().now
    assert rig.source.stopped
    assert rig.backend.closed


def test_who_asks_when_it_ends_is_told_at_once(rig: Rig) -> None:
    rig.synced()
    rig.agent.end()
    with pytest.raises(TimeoutError, match="the agent has stopped"):
        rig.agent.status()


def test_by_the_systems_clock_on_a_thread_of_its_own_it_enforces_until_it_is_stopped() -> None:
    source, backend = FakeSource(SYSTEM), FakeBackend(SYSTEM)
    host = HostState((), frozenset(Family), False, False)
    agent = Agent(
        resolve({"node_name": "here"}, {}),
        ModeChoice("nft", "because"),
        host,
        source,
        lambda _: backend,
        world=World(start_thread=lambda *_: NoThread(), check_host=lambda *_: host),
    )
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    agent.status()  # it has started
    source.sink([pod(1), deny()])
    source.synced()
    assert agent.status().applied
    assert readyz(agent.health()).ok
    agent.inbox.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert backend.closed
