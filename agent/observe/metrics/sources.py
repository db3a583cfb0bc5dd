"""Where objects come from: each cache, its events, and its failures."""

from __future__ import annotations

from collections.abc import Iterator

from agent.observe.metrics.figures import Figures
from agent.observe.metrics.metric import Metric, Sample
from agent.observe.metrics.samples import COUNTER, GAUGE, HISTOGRAM, ONE, PER_KIND, each, of_cache, one


def _events(figures: Figures) -> Iterator[Sample]:
    for kind, state in sorted(figures.states.items()):
        for event in ("upserts", "deletes", "invalid"):
            yield Sample((figures.source, kind.value, event.removesuffix("s")), getattr(state.counts, event))


def _outages(figures: Figures) -> Iterator[Sample]:
    yield Sample((), max((state.counts.outages for state in figures.states.values()), default=0))


def _leads(figures: Figures) -> Iterator[Sample]:
    if figures.leads is not None:
        yield Sample((), figures.leads)


SOURCES: tuple[Metric, ...] = (
    Metric(
        "cache_synced",
        GAUGE,
        ("kind",),
        "1 once every object of the kind that there was at the start has been read.",
        PER_KIND,
        of_cache(lambda s: s.synced),
    ),
    Metric(
        "cache_current",
        GAUGE,
        ("kind",),
        "1 while what is known of a kind is what there is; 0 from a failure until it has been read again.",
        PER_KIND,
        of_cache(lambda s: s.current),
    ),
    Metric(
        "cache_objects",
        GAUGE,
        ("kind",),
        "The objects known of a kind.",
        PER_KIND,
        of_cache(lambda s: s.objects),
    ),
    Metric(
        "cache_last_contact_timestamp_seconds",
        GAUGE,
        ("kind",),
        "When the source last gave an answer about a kind that can be used; 0 if never.",
        PER_KIND,
        of_cache(lambda s: s.last_contact),
    ),
    Metric(
        "refused_objects",
        GAUGE,
        ("kind",),
        "Objects or files that are refused now, because they are not valid. /readyz names each.",
        PER_KIND,
        of_cache(lambda s: len(s.faults)),
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
        of_cache(lambda s: s.counts.lists),
    ),
    Metric(
        "cache_expired_total",
        COUNTER,
        ("kind",),
        "How often the API server no longer knew the version to go on from (410 Gone).",
        PER_KIND,
        of_cache(lambda s: s.counts.expired),
    ),
    Metric(
        "cache_failures_total",
        COUNTER,
        ("kind",),
        "How often a list or a watch failed or was refused, or a directory could not be read.",
        PER_KIND,
        of_cache(lambda s: s.counts.failures),
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
        "cni_results",
        GAUGE,
        (),
        "The results of network plugins that are known: one for each sandbox of this node.",
        ONE,
        one(lambda f: f.results),
    ),
    Metric(
        "early_addresses_total",
        COUNTER,
        (),
        "How often a pod of this node had an address by its network plugin before its status said it.",
        ONE,
        one(lambda f: f.early),
    ),
    Metric(
        "early_lead_seconds",
        HISTOGRAM,
        (),
        "How long an isolated pod's rules were in the kernel before its status said its address, where a "
        "network plugin's result said it.",
        "17",
        _leads,
    ),
    Metric(
        "nri_sandboxes_total",
        COUNTER,
        ("answer",),
        "New sandboxes of which the container runtime asked (NRI). enforced: it was answered when the pod "
        "was isolated. late: before that, since the runtime would not wait longer. skipped: a pod on the "
        "host's network, or of a file of the node.",
        "3, with NRI",
        each(lambda f: f.sandboxes),
    ),
)
