"""Every metric of the agent, once: what is scraped and docs/metrics.md are both made of this table.

Names and units follow Prometheus's conventions: base units, ``_total`` on counters, and times as seconds
since 1970, so that an age is ``time() - …``. Each metric has a bounded number of series; none has a pod's
name or an address.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping

from agent.dataplane.traffic import Amount, Told
from agent.observe.metrics.figures import Figures
from agent.observe.metrics.metric import Metric, Sample, Type, Value
from agent.sources.source import SyncState

GAUGE, COUNTER, HISTOGRAM = Type

ONE = "1"
PER_KIND = "3, with `--allow-nodes` 4: one for each kind of object"
PER_FAMILY = "2"
PER_DIRECTION = "2"
PER_NAMESPACE = "2 for each namespace with isolated pods on this node"
PER_POLICY = "1 for each direction of each policy that selects pods of this node"

Read = Callable[[Figures], Iterator[Sample]]


def _one(read: Callable[[Figures], Value]) -> Read:
    def samples(figures: Figures) -> Iterator[Sample]:
        yield Sample((), read(figures))

    return samples


def _each(read: Callable[[Figures], Mapping[str, Value] | Mapping[int, Value] | Mapping[str, int]]) -> Read:
    def samples(figures: Figures) -> Iterator[Sample]:
        for label, value in sorted(read(figures).items()):
            yield Sample((str(label),), value)

    return samples


def _cache(read: Callable[[SyncState], float]) -> Read:
    def samples(figures: Figures) -> Iterator[Sample]:
        for kind, state in sorted(figures.states.items()):
            yield Sample((kind.value,), read(state))

    return samples


def _traffic(told: Told, read: Callable[[Amount], int], *labels: str) -> Read:
    def samples(figures: Figures) -> Iterator[Sample]:
        for subject, amount in sorted(figures.traffic.totals.items(), key=lambda item: item[0][1:]):
            if subject.told is told:
                # An empty label is none to Prometheus, which might put another in its place.
                yield Sample(tuple(getattr(subject, label) or "-" for label in labels), read(amount))

    return samples


def _build(figures: Figures) -> Iterator[Sample]:
    yield Sample((figures.version, platform.python_version(), figures.iptables_mode), 1)


def _faults(figures: Figures) -> Iterator[Sample]:
    for blocking in (False, True):
        yield Sample((str(blocking).lower(),), figures.faults.get(blocking, 0))


def _isolated(figures: Figures) -> Iterator[Sample]:
    for (direction, family), count in sorted(figures.isolated.items()):
        yield Sample((direction, str(family)), count)


def _events(figures: Figures) -> Iterator[Sample]:
    for kind, state in sorted(figures.states.items()):
        for event in ("upserts", "deletes", "invalid"):
            yield Sample((figures.source, kind.value, event.removesuffix("s")), getattr(state.counts, event))


def _failures(figures: Figures) -> Iterator[Sample]:
    for (call, reason), count in sorted(figures.failures.items()):
        yield Sample((call, reason), count)


def _outages(figures: Figures) -> Iterator[Sample]:
    yield Sample((), max((state.counts.outages for state in figures.states.values()), default=0))


def _creation(figures: Figures) -> Iterator[Sample]:
    if figures.creation is not None:
        yield Sample((), figures.creation)


METRICS: tuple[Metric, ...] = (
    Metric(
        "build_info",
        GAUGE,
        ("version", "python_version", "iptables_mode"),
        "Always 1. Its labels say which agent this is, and which of the two iptables it programs.",
        ONE,
        _build,
    ),
    Metric("ready", GAUGE, (), "1 if /readyz passes, else 0.", ONE, _one(lambda f: f.ready)),
    Metric(
        "enforcing",
        GAUGE,
        (),
        "1 once everything that the sources knew at the start has been in the kernel.",
        ONE,
        _one(lambda f: f.enforcing),
    ),
    Metric(
        "loop_last_progress_timestamp_seconds",
        GAUGE,
        (),
        "When the main loop last made progress, in seconds since 1970.",
        ONE,
        _one(lambda f: f.heartbeat),
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
        "policies",
        GAUGE,
        ("direction",),
        "Policies in force that select a pod of this node.",
        PER_DIRECTION,
        _each(lambda f: f.policies),
    ),
    Metric(
        "policies_over_budget",
        GAUGE,
        ("budget",),
        "Policies that need more than the budget of a policy or of a namespace allows: they isolate their "
        "pods and allow nothing.",
        "2",
        _each(lambda f: f.over_budget),
    ),
    Metric(
        "closed_addresses",
        GAUGE,
        ("direction",),
        "Addresses that stay closed for a while after their isolated pod has gone (`--linger`).",
        PER_DIRECTION,
        _each(lambda f: f.closed),
    ),
    Metric(
        "chains", GAUGE, ("family",), "The agent's iptables chains.", PER_FAMILY, _each(lambda f: f.chains)
    ),
    Metric(
        "rules", GAUGE, ("family",), "The rules in the agent's chains.", PER_FAMILY, _each(lambda f: f.rules)
    ),
    Metric(
        "sets",
        GAUGE,
        ("family",),
        "The sets of peers that rules look into.",
        PER_FAMILY,
        _each(lambda f: f.sets),
    ),
    Metric(
        "set_members",
        GAUGE,
        ("family",),
        "The members of these sets, added up.",
        PER_FAMILY,
        _each(lambda f: f.members),
    ),
    Metric(
        "cache_synced",
        GAUGE,
        ("kind",),
        "1 once every object of the kind that there was at the start has been read.",
        PER_KIND,
        _cache(lambda s: s.synced),
    ),
    Metric(
        "cache_current",
        GAUGE,
        ("kind",),
        "1 while what is known of a kind is what there is; 0 from a failure until it has been read again.",
        PER_KIND,
        _cache(lambda s: s.current),
    ),
    Metric(
        "cache_objects",
        GAUGE,
        ("kind",),
        "The objects known of a kind.",
        PER_KIND,
        _cache(lambda s: s.objects),
    ),
    Metric(
        "cache_last_contact_timestamp_seconds",
        GAUGE,
        ("kind",),
        "When the source last gave an answer about a kind that can be used; 0 if never.",
        PER_KIND,
        _cache(lambda s: s.last_contact),
    ),
    Metric(
        "refused_objects",
        GAUGE,
        ("kind",),
        "Objects or files that are refused now, because they are not valid. /readyz names each.",
        PER_KIND,
        _cache(lambda s: len(s.faults)),
    ),
    Metric(
        "events_total",
        COUNTER,
        ("source", "kind", "event"),
        "Objects that the source told of: an upsert is new or changed, an invalid one is refused.",
        "3 for each kind of object",
        _events,
    ),
    Metric(
        "cache_lists_total",
        COUNTER,
        ("kind",),
        "How often all objects of a kind were listed; more than one means that it was listed again.",
        PER_KIND,
        _cache(lambda s: s.counts.lists),
    ),
    Metric(
        "cache_expired_total",
        COUNTER,
        ("kind",),
        "How often the API server no longer knew the version to go on from (410 Gone).",
        PER_KIND,
        _cache(lambda s: s.counts.expired),
    ),
    Metric(
        "cache_failures_total",
        COUNTER,
        ("kind",),
        "How often a list or a watch failed or was refused, or a directory could not be read.",
        PER_KIND,
        _cache(lambda s: s.counts.failures),
    ),
    Metric(
        "source_outages_total",
        COUNTER,
        (),
        "How often the API server did not serve at all, an outage that lasts included.",
        ONE,
        _outages,
    ),
    Metric(
        "change_latency_seconds",
        HISTOGRAM,
        ("change",),
        "From the arrival of an object's event to the kernel, for events that changed something on this "
        "node. What is read at the start is not counted.",
        "17 for each of policy, local_pod, remote_pod, namespace, node",
        _each(lambda f: f.latency),
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
        _each(lambda f: f.calls),
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
        _one(lambda f: f.writes),
    ),
    Metric(
        "last_apply_timestamp_seconds",
        GAUGE,
        (),
        "When the kernel was last moved; 0 if never.",
        ONE,
        _one(lambda f: f.applied_at),
    ),
    Metric(
        "retry_pending",
        GAUGE,
        (),
        "1 while something has failed and is to be tried again.",
        ONE,
        _one(lambda f: f.retry_pending),
    ),
    Metric(
        "drift_repairs_total",
        COUNTER,
        ("difference",),
        "What another program had changed in the kernel and the agent put back, by what was different.",
        "17",
        _each(lambda f: f.drift),
    ),
    Metric(
        "drift_last_check_timestamp_seconds",
        GAUGE,
        (),
        "When the kernel was last compared with what it should hold; 0 if never.",
        ONE,
        _one(lambda f: f.drift_looked_at),
    ),
    Metric(
        "sysctl_repairs_total",
        COUNTER,
        (),
        "How often a setting of the node that enforcement needs was put back.",
        ONE,
        _one(lambda f: f.sysctl_repairs),
    ),
    Metric(
        "conntrack_deletions_total",
        COUNTER,
        (),
        "Connections that were deleted from the kernel's table, because an address changed hands.",
        ONE,
        _one(lambda f: f.connections_deleted),
    ),
    Metric(
        "verdict_cache_flushes_total",
        COUNTER,
        (),
        "How often the cache of allowed connections was emptied, because a change could deny one of them.",
        ONE,
        _one(lambda f: f.cache_flushes),
    ),
    Metric(
        "denied_packets_total",
        COUNTER,
        ("direction", "namespace"),
        "Packets that no policy of a pod allows. The namespace is the pod's; it is `-` where no pod here "
        "has the isolated address. From the rules' own counters, when scraped.",
        PER_NAMESPACE,
        _traffic(Told.DENIED, lambda a: a.packets, "direction", "namespace"),
    ),
    Metric(
        "denied_bytes_total",
        COUNTER,
        ("direction", "namespace"),
        "The bytes in these packets.",
        PER_NAMESPACE,
        _traffic(Told.DENIED, lambda a: a.bytes, "direction", "namespace"),
    ),
    Metric(
        "allowed_packets_total",
        COUNTER,
        ("direction", "namespace"),
        "Packets that were judged and allowed. Packets of a known connection are not judged, nor are those "
        "of one that is cached (`--cache-allowed`): this counts new connections, roughly.",
        PER_NAMESPACE,
        _traffic(Told.ALLOWED, lambda a: a.packets, "direction", "namespace"),
    ),
    Metric(
        "allowed_bytes_total",
        COUNTER,
        ("direction", "namespace"),
        "The bytes in these packets.",
        PER_NAMESPACE,
        _traffic(Told.ALLOWED, lambda a: a.bytes, "direction", "namespace"),
    ),
    Metric(
        "policy_allowed_packets_total",
        COUNTER,
        ("direction", "namespace", "policy"),
        "The same by the policy that allowed. Only with `--metrics-per-policy`.",
        PER_POLICY,
        _traffic(Told.BY_POLICY, lambda a: a.packets, "direction", "namespace", "policy"),
    ),
    Metric(
        "policy_allowed_bytes_total",
        COUNTER,
        ("direction", "namespace", "policy"),
        "The bytes in these packets. Only with `--metrics-per-policy`.",
        PER_POLICY,
        _traffic(Told.BY_POLICY, lambda a: a.bytes, "direction", "namespace", "policy"),
    ),
    Metric(
        "wrong_link_packets_total",
        COUNTER,
        ("namespace",),
        "Packets that were dropped because their address is not one of the pod whose interface they used: a "
        "pod forged a source address, or the network plugin has a fault.",
        "1 for each namespace with isolated pods on this node",
        _traffic(Told.WRONG_LINK, lambda a: a.packets, "namespace"),
    ),
    Metric(
        "counters_read_seconds",
        GAUGE,
        (),
        "How long the last reading of the rules' counters took.",
        ONE,
        _one(lambda f: f.traffic.seconds),
    ),
    Metric(
        "counters_read_failures_total",
        COUNTER,
        (),
        "How often the rules' counters could not be read: their totals stay as they were.",
        ONE,
        _one(lambda f: f.traffic.failures),
    ),
)
