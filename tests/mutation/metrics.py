"""Breakages of what is measured, and of who may read it."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

METRICS = (
    Mutation(
        "a client known to be refused answered from memory while the API server is away",
        "agent.observe.authorize:Authorizer._access",
        "known is not None and known.access is Access.ALLOWED and now - known.at < AWAY_SECONDS",
        "known is not None and now - known.at < AWAY_SECONDS",
        (Selection.AUTHORIZE,),
    ),
    Mutation(
        "who was let in once let in for as long as the agent runs",
        "agent.observe.authorize:Authorizer._access",
        "self._now() - known.at < REMEMBERED_SECONDS",
        "True",
        (Selection.AUTHORIZE,),
    ),
    Mutation(
        "a certificate that is never read again",
        "agent.observe.tls:Certificate._renew",
        "stamp == self._stamp",
        "True",
        (Selection.TLS,),
    ),
    Mutation(
        "a rule's count that begins anew taken for one that goes on",
        "agent.dataplane.traffic:Amount.since",
        "self.packets < before.packets or self.bytes < before.bytes",
        "False",
        (Selection.TRAFFIC,),
    ),
    Mutation(
        "counters read for each of several scrapers",
        "agent.dataplane.traffic:Meter.take",
        "began - self._at < CACHED_SECONDS",
        "False",
        (Selection.TRAFFIC,),
    ),
    Mutation(
        "a change taken for done while its write is to be tried again",
        "agent.runtime.reconcile:Reconcile._has_written",
        "calls.retry.pending or calls.backend.busy or self._engine.waiting or self._backlog",
        "calls.backend.busy or self._engine.waiting or self._backlog",
        (Selection.LATENCY,),
    ),
    Mutation(
        "a change timed from when the loop takes it",
        "agent.runtime.latency:Latency.step",
        "found[when, self._change(event, here)] += 1",
        "found[self._clock.monotonic(), self._change(event, here)] += 1",
        (Selection.LATENCY,),
    ),
    Mutation(
        "a policy's change taken for its creation",
        "agent.runtime.latency:Latency._note_policy",
        "created >= int(self._since) and key not in self._known",
        "created >= int(self._since)",
        (Selection.LATENCY,),
    ),
    Mutation(
        "a histogram's buckets that are not cumulated",
        "agent.observe.metrics.exposition:_buckets",
        "itertools.accumulate(found.counts)",
        "found.counts",
        (Selection.METRICS,),
    ),
)
