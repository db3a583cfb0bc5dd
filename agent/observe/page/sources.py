"""What the page is made of: what the agent tells of itself, each part asked for when a page needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.clock import Clock
from agent.dataplane.trace import Tracer
from agent.history.change import Row
from agent.history.query import Query
from agent.kube.model import Key, NetworkPolicy
from agent.observe.explain.live import Explainer
from agent.observe.flows.flow import Flow
from agent.observe.health import Health
from agent.observe.hits import Hits
from agent.observe.snapshot import StatusSnapshot
from agent.policy.engine import LocalPod

Recent = Callable[[int, str, str], Sequence[Flow]]


@dataclass(frozen=True)
class Sources:
    """For any thread but the loop's own.

    ``status`` asks the loop (raises TimeoutError when it is busy). ``health``, ``pods`` (this node's targets)
    and ``policy`` (one in force, or None) wait for nothing. ``history`` gives rows, the newest first; raises
    StoreError. ``denied`` gives the last so many denied connections, the newest first, of a pod and a policy
    where these are not empty.
    """

    node: str
    version: str
    health: Callable[[], Health]
    status: Callable[[], StatusSnapshot]
    pods: Callable[[], Sequence[LocalPod]]
    policy: Callable[[Key], NetworkPolicy | None]
    history: Callable[[Query], Sequence[Row]]
    denied: Recent
    tracer: Callable[[], Tracer]
    hits: Hits
    explainer: Explainer
    clock: Clock
