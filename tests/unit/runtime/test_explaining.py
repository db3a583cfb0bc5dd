"""What answers of a running agent are warned of."""

from __future__ import annotations

import dataclasses

from agent.kube.model import Kind
from agent.observe.health import Health
from agent.runtime.explaining import behind
from agent.sources.source import SyncState

NOW = 1_000_000.0


def test_an_answer_says_since_when_changes_may_be_missing() -> None:
    good = SyncState(True, 3, NOW - 9, NOW - 1)
    lost = good._replace(last_contact=NOW - 60, current=False)
    health = Health(
        now=NOW, heartbeat=NOW, threads={}, caches={Kind.POD: good, Kind.POLICY: good}, applied=True
    )
    assert behind(health) == ""
    away = dataclasses.replace(health, caches={Kind.POD: good, Kind.POLICY: lost})
    assert behind(away).startswith(
        "no contact with the API server for 60 s: changes made since are not known"
    )
