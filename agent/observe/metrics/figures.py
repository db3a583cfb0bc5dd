"""Everything that metrics are made of, as one value of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.dataplane.traffic import NO_TRAFFIC, Traffic
from agent.histogram import Distribution
from agent.kube.model import Kind
from agent.sources.source import SyncState


@dataclass(frozen=True)
class Figures:
    """The agent's figures. Times are ``time.time()`` seconds, 0.0 never; what only grows began at the start.

    ``source`` is ``apiserver`` or ``manifests``. ``isolated`` counts pods by direction and family; ``faults``
    by whether they keep the agent from being ready; ``unknown`` addresses that no pod is known to have;
    ``over_budget`` policies by whose budget it is; ``audited`` pods by direction, ``staged`` policies that
    are not enforced by their mode; ``failures`` calls of the backend by what was called and the reason.
    ``results`` are those of network plugins, ``early`` the pods that had an address by one before their
    status said it; ``sandboxes`` those that the container runtime asked about, by what the answer meant.
    """

    version: str
    iptables_mode: str
    source: str
    ready: bool = False
    enforcing: bool = False
    heartbeat: float = 0.0
    faults: Mapping[bool, int] = field(default_factory=dict)
    isolated: Mapping[tuple[str, int], int] = field(default_factory=dict)
    policies: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0
    audited: Mapping[str, int] = field(default_factory=dict)
    staged: Mapping[str, int] = field(default_factory=dict)
    over_budget: Mapping[str, int] = field(default_factory=dict)
    chains: Mapping[int, int] = field(default_factory=dict)
    rules: Mapping[int, int] = field(default_factory=dict)
    sets: Mapping[int, int] = field(default_factory=dict)
    members: Mapping[int, int] = field(default_factory=dict)
    states: Mapping[Kind, SyncState] = field(default_factory=dict)
    latency: Mapping[str, Distribution] = field(default_factory=dict)
    creation: Distribution | None = None
    calls: Mapping[str, Distribution] = field(default_factory=dict)
    failures: Mapping[tuple[str, str], int] = field(default_factory=dict)
    writes: int = 0
    applied_at: float = 0.0
    retry_pending: bool = False
    drift: Mapping[str, int] = field(default_factory=dict)
    drift_authors: Mapping[str, int] = field(default_factory=dict)
    drift_looked_at: float = 0.0
    proved_at: float = 0.0
    proof_interval: float = 0.0
    proof_differences: int = 0
    proof_found: int = 0
    sysctl_repairs: int = 0
    connections_deleted: int = 0
    connections_cut: int = 0
    cache_flushes: int = 0
    history_missing: Mapping[str, int] = field(default_factory=dict)
    frames_dropped: Mapping[str, int] = field(default_factory=dict)
    unlogged: Mapping[str, int] = field(default_factory=dict)
    results: int = 0
    early: int = 0
    leads: Distribution | None = None
    sandboxes: Mapping[str, int] = field(default_factory=dict)
    traffic: Traffic = NO_TRAFFIC
