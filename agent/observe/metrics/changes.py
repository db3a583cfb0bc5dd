"""How changes reach the kernel: how long they take, what fails, what is put back."""

from __future__ import annotations

from collections.abc import Iterator

from agent.observe.metrics.figures import Figures
from agent.observe.metrics.metric import Metric, Sample
from agent.observe.metrics.samples import COUNTER, GAUGE, HISTOGRAM, ONE, each, one


def _failures(figures: Figures) -> Iterator[Sample]:
    for (call, reason), count in sorted(figures.failures.items()):
        yield Sample((call, reason), count)


def _creation(figures: Figures) -> Iterator[Sample]:
    if figures.creation is not None:
        yield Sample((), figures.creation)


CHANGES: tuple[Metric, ...] = (
    Metric(
        "change_latency_seconds",
        HISTOGRAM,
        ("change",),
        "From the arrival of an object's event to the kernel, for events that changed something on this "
        "node. What is read at the start is not counted.",
        "17 for each of policy, local_pod, remote_pod, namespace, node",
        each(lambda f: f.latency),
    ),
    Metric(
        "policy_creation_latency_seconds",
        HISTOGRAM,
        (),
        "From a policy's creationTimestamp to the kernel, for policies that were created while the agent "
        "ran and select a pod of this node. The timestamp has whole seconds and the node's clock is "
        "compared with the API server's, so up to a second is too much.",
        "17",
        _creation,
    ),
    Metric(
        "apply_duration_seconds",
        HISTOGRAM,
        ("call",),
        "How long it took to move the kernel. apply: one change. sync: the kernel was read and compared "
        "first. tidy: what is no longer needed was removed.",
        "17 for each of apply, sync, tidy",
        each(lambda f: f.calls),
    ),
    Metric(
        "apply_failures_total",
        COUNTER,
        ("call", "reason"),
        "How often that failed and was to be tried again. reason: rules, sets, conntrack, read (the kernel "
        "could not be read), kube-router (its firewall writes here), defect (of the agent; see its log), "
        "other.",
        "21",
        _failures,
    ),
    Metric(
        "kernel_writes_total",
        COUNTER,
        (),
        "Commands and messages that changed rules or sets.",
        ONE,
        one(lambda f: f.writes),
    ),
    Metric(
        "last_apply_timestamp_seconds",
        GAUGE,
        (),
        "When the kernel was last moved; 0 if never.",
        ONE,
        one(lambda f: f.applied_at),
    ),
    Metric(
        "retry_pending",
        GAUGE,
        (),
        "1 while something has failed and is to be tried again.",
        ONE,
        one(lambda f: f.retry_pending),
    ),
    Metric(
        "drift_repairs_total",
        COUNTER,
        ("difference",),
        "What another program had changed in the kernel and the agent put back, by what was different.",
        "19",
        each(lambda f: f.drift),
    ),
    Metric(
        "drift_repairs_by_program_total",
        COUNTER,
        ("program",),
        "How often the agent put back what a program had changed, by the program's name. In nft mode only.",
        "up to 21",
        each(lambda f: f.drift_authors),
    ),
    Metric(
        "proof_last_timestamp_seconds",
        GAUGE,
        (),
        "When the kernel was last held against the policies for every packet, in seconds since 1970; "
        "0 if never (`--verify-interval`).",
        ONE,
        one(lambda f: f.proved_at),
    ),
    Metric(
        "proof_interval_seconds",
        GAUGE,
        (),
        "How long after a proof the next one is made: `--verify-interval`, or longer where a proof takes "
        "long; 0 if none is made.",
        ONE,
        one(lambda f: f.proof_interval),
    ),
    Metric(
        "proof_differences",
        GAUGE,
        (),
        "What that found: pods, with a direction, of which the kernel does not do what the policies say.",
        ONE,
        one(lambda f: f.proof_differences),
    ),
    Metric(
        "proof_failures_total",
        COUNTER,
        (),
        "How often such a proof found anything. `netpol-agent verify` says what it finds now.",
        ONE,
        one(lambda f: f.proof_found),
    ),
    Metric(
        "drift_last_check_timestamp_seconds",
        GAUGE,
        (),
        "When the kernel was last compared with what it should hold; 0 if never.",
        ONE,
        one(lambda f: f.drift_looked_at),
    ),
    Metric(
        "sysctl_repairs_total",
        COUNTER,
        (),
        "How often a setting of the node that enforcement needs was put back.",
        ONE,
        one(lambda f: f.sysctl_repairs),
    ),
    Metric(
        "conntrack_deletions_total",
        COUNTER,
        (),
        "Connections that were deleted from the kernel's table, because an address changed hands.",
        ONE,
        one(lambda f: f.connections_deleted),
    ),
    Metric(
        "connections_cut_total",
        COUNTER,
        (),
        "Connections that were ended because a change forbids them: 0 without --cut-denied.",
        ONE,
        one(lambda f: f.connections_cut),
    ),
    Metric(
        "history_rows_dropped_total",
        COUNTER,
        ("reason",),
        "Changes that are not in the history. too_many: too many came at once. not_written: the file could "
        "not be written for too long. defect: the agent could not tell them; see its log.",
        "3",
        each(lambda f: f.history_missing),
    ),
    Metric(
        "verdict_cache_flushes_total",
        COUNTER,
        (),
        "How often the cache of allowed connections was emptied, because a change could deny one of them.",
        ONE,
        one(lambda f: f.cache_flushes),
    ),
)
