"""What rules have counted of packets, and what was not logged of them."""

from __future__ import annotations

from agent.dataplane.traffic import Told
from agent.observe.metrics.metric import Metric
from agent.observe.metrics.samples import (
    COUNTER,
    GAUGE,
    ONE,
    PER_NAMESPACE,
    PER_POLICY,
    each,
    of_traffic,
    one,
)

PACKETS: tuple[Metric, ...] = (
    Metric(
        "denied_packets_total",
        COUNTER,
        ("direction", "namespace"),
        "Packets that no policy of a pod allows. The namespace is the pod's; it is `-` where no pod here "
        "has the isolated address. From the rules' own counters, when scraped.",
        PER_NAMESPACE,
        of_traffic(Told.DENIED, lambda a: a.packets, "direction", "namespace"),
    ),
    Metric(
        "denied_bytes_total",
        COUNTER,
        ("direction", "namespace"),
        "The bytes in these packets.",
        PER_NAMESPACE,
        of_traffic(Told.DENIED, lambda a: a.bytes, "direction", "namespace"),
    ),
    Metric(
        "would_deny_packets_total",
        COUNTER,
        ("direction", "namespace"),
        "Packets that pass, and that audited policies would deny if they were enforced: the first of each "
        "connection. The namespace is the pod's.",
        "2 for each namespace with audited pods on this node",
        of_traffic(Told.WOULD_DENY, lambda a: a.packets, "direction", "namespace"),
    ),
    Metric(
        "would_deny_bytes_total",
        COUNTER,
        ("direction", "namespace"),
        "The bytes in these packets.",
        "2 for each namespace with audited pods on this node",
        of_traffic(Told.WOULD_DENY, lambda a: a.bytes, "direction", "namespace"),
    ),
    Metric(
        "allowed_packets_total",
        COUNTER,
        ("direction", "namespace"),
        "Packets that were judged and allowed. Packets of a known connection are not judged, nor are those "
        "of one that is cached (`--cache-allowed`): this counts new connections, roughly.",
        PER_NAMESPACE,
        of_traffic(Told.ALLOWED, lambda a: a.packets, "direction", "namespace"),
    ),
    Metric(
        "allowed_bytes_total",
        COUNTER,
        ("direction", "namespace"),
        "The bytes in these packets.",
        PER_NAMESPACE,
        of_traffic(Told.ALLOWED, lambda a: a.bytes, "direction", "namespace"),
    ),
    Metric(
        "policy_allowed_packets_total",
        COUNTER,
        ("direction", "namespace", "policy"),
        "The same by the policy that allowed. Only with `--metrics-per-policy`.",
        PER_POLICY,
        of_traffic(Told.BY_POLICY, lambda a: a.packets, "direction", "namespace", "policy"),
    ),
    Metric(
        "policy_allowed_bytes_total",
        COUNTER,
        ("direction", "namespace", "policy"),
        "The bytes in these packets. Only with `--metrics-per-policy`.",
        PER_POLICY,
        of_traffic(Told.BY_POLICY, lambda a: a.bytes, "direction", "namespace", "policy"),
    ),
    Metric(
        "wrong_link_packets_total",
        COUNTER,
        ("namespace",),
        "Packets that were dropped because their address is not one of the pod whose interface they used: a "
        "pod forged a source address, or the network plugin has a fault.",
        "1 for each namespace with isolated pods on this node",
        of_traffic(Told.WRONG_LINK, lambda a: a.packets, "namespace"),
    ),
    Metric(
        "unknown_packets_total",
        COUNTER,
        ("direction",),
        "Packets that were denied because no pod is known to have their address (`--new-pods deny`).",
        "2 where new pods are closed",
        of_traffic(Told.UNKNOWN, lambda a: a.packets, "direction"),
    ),
    Metric(
        "frames_dropped_total",
        COUNTER,
        ("reason",),
        "Frames that pods sent under an address that is not their own, or that are neither IP nor ARP "
        "(`--guard-frames`), by the chain of the table that dropped them. It begins anew with the table.",
        "7 with `--guard-frames`",
        each(lambda f: f.frames_dropped),
    ),
    Metric(
        "log_packets_lost_total",
        COUNTER,
        ("reason",),
        "Packets that were to be logged (`--log-denied`, `--log-allowed`) and were not. limit: more than "
        "`--log-rate`. not_read: they came faster than they were read. unreadable: they cannot be read. "
        "too_many: there were too many different ones.",
        "4",
        each(lambda f: f.unlogged),
    ),
    Metric(
        "counters_read_seconds",
        GAUGE,
        (),
        "How long the last reading of the rules' counters took.",
        ONE,
        one(lambda f: f.traffic.seconds),
    ),
    Metric(
        "counters_read_failures_total",
        COUNTER,
        (),
        "How often the rules' counters could not be read: their totals stay as they were.",
        ONE,
        one(lambda f: f.traffic.failures),
    ),
)
