"""What the agent is, what is wrong, and what it enforces."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from agent.observe.metrics.figures import Figures
from agent.observe.metrics.metric import Metric, Sample
from agent.observe.metrics.samples import GAUGE, ONE, PER_DIRECTION, PER_FAMILY, each, one


def _build(figures: Figures) -> Iterator[Sample]:
    yield Sample((figures.version, platform.python_version(), figures.iptables_mode), 1)


def _faults(figures: Figures) -> Iterator[Sample]:
    for blocking in (False, True):
        yield Sample((str(blocking).lower(),), figures.faults.get(blocking, 0))


def _isolated(figures: Figures) -> Iterator[Sample]:
    for (direction, family), count in sorted(figures.isolated.items()):
        yield Sample((direction, str(family)), count)


STATE: tuple[Metric, ...] = (
    Metric(
        "build_info",
        GAUGE,
        ("version", "python_version", "iptables_mode"),
        "Always 1. Its labels say which agent this is, and which of the two iptables it programs.",
        ONE,
        _build,
    ),
    Metric("ready", GAUGE, (), "1 if /readyz passes, else 0.", ONE, one(lambda f: f.ready)),
    Metric(
        "enforcing",
        GAUGE,
        (),
        "1 once everything that the sources knew at the start has been in the kernel.",
        ONE,
        one(lambda f: f.enforcing),
    ),
    Metric(
        "loop_last_progress_timestamp_seconds",
        GAUGE,
        (),
        "When the main loop last made progress, in seconds since 1970.",
        ONE,
        one(lambda f: f.heartbeat),
    ),
    Metric(
        "faults",
        GAUGE,
        ("blocking",),
        "What is wrong now. A blocking fault keeps the agent from being ready. /readyz names each.",
        "2",
        _faults,
    ),
    Metric(
        "isolated_pods",
        GAUGE,
        ("direction", "family"),
        "Pods of this node that a policy isolates.",
        "4",
        _isolated,
    ),
    Metric(
        "audited_pods",
        GAUGE,
        ("direction",),
        "Pods of this node that only audited policies select in a direction.",
        PER_DIRECTION,
        each(lambda f: f.audited),
    ),
    Metric(
        "staged_policies",
        GAUGE,
        ("mode",),
        "Policies of the cluster that are not enforced: audited, or disabled (`netpol-agent.io/mode`).",
        "2",
        each(lambda f: f.staged),
    ),
    Metric(
        "policies",
        GAUGE,
        ("direction",),
        "Policies in force that select a pod of this node.",
        PER_DIRECTION,
        each(lambda f: f.policies),
    ),
    Metric(
        "policies_over_budget",
        GAUGE,
        ("budget",),
        "Policies that need more than the budget of a policy or of a namespace allows: they isolate their "
        "pods and allow nothing.",
        "2",
        each(lambda f: f.over_budget),
    ),
    Metric(
        "closed_addresses",
        GAUGE,
        ("direction",),
        "Addresses that stay closed for a while after their isolated pod has gone (`--linger`).",
        PER_DIRECTION,
        each(lambda f: f.closed),
    ),
    Metric(
        "unknown_addresses",
        GAUGE,
        (),
        "Addresses inside pods of this node that are closed, since no pod is known to have them "
        "(`--new-pods deny`).",
        ONE,
        one(lambda f: f.unknown),
    ),
    Metric(
        "chains", GAUGE, ("family",), "The agent's iptables chains.", PER_FAMILY, each(lambda f: f.chains)
    ),
    Metric(
        "rules", GAUGE, ("family",), "The rules in the agent's chains.", PER_FAMILY, each(lambda f: f.rules)
    ),
    Metric(
        "sets",
        GAUGE,
        ("family",),
        "The sets of peers that rules look into.",
        PER_FAMILY,
        each(lambda f: f.sets),
    ),
    Metric(
        "set_members",
        GAUGE,
        ("family",),
        "The members of these sets, added up.",
        PER_FAMILY,
        each(lambda f: f.members),
    ),
)
