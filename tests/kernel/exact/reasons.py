"""What the rules log of denied packets, held against the specification: whom, in which direction, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence

from agent.dataplane.iptables.options import LogRules, Options
from agent.dataplane.logged import Decided, Judged, judged_by
from agent.kernel.headers import decode
from agent.kernel.nflog import Logged, NflogSocket
from agent.kube.logging import Amount, Logging
from agent.kube.model import Object
from agent.net import Direction
from agent.observe.flows.digest import AT_ONCE, Digest
from agent.observe.flows.flow import Flow
from agent.observe.flows.inventory import Inventory
from agent.observe.flows.why import reason
from agent.policy.engine import Engine
from agent.spec.cluster import Cluster, cluster_of, enforcing
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet, Verdict
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.plan import Expected, is_local

GROUP = 1234
OPTIONS = Options(log=LogRules(GROUP))
EVERYTHING = Logging(Amount.ALL, Amount.ALL)

Asking = Callable[[Packet], Verdict]
Seen = dict[tuple[Judged, Packet], Logged]


class WrongReasonError(AssertionError):
    """A denied packet was not logged, or at the wrong pod, or for another reason than the specification's."""


class Reasons:
    """Listens on the policed node of an arena. The order of judgement is that of the rules: egress first."""

    def __init__(self, arena: Arena) -> None:
        with arena.kernel():
            # Each at once, so that what was sent has been logged when its verdict is known.
            self._log = NflogSocket(GROUP, together=1)
        self._log.set_buffer(64 << 20)
        self.checked = 0
        self.noted = 0
        """Packets that were logged as ones that audited policies would deny."""

    def close(self) -> None:
        self._log.close()

    def forget(self) -> None:
        """Leave out what has been logged until now."""
        while self._log.read(0.0):
            pass

    def check(self, engine: Engine, objects: Iterable[Object], expected: Sequence[Expected]) -> None:
        """Hold what was logged against what was expected. Raises WrongReasonError."""
        cluster = cluster_of(objects)
        now = _asking(cluster)
        seen = self.seen({one.packet for one in expected})
        wanted = set(filter(None, (_denied(cluster, now, one.packet) for one in expected)))
        found = {one for one in seen if one[0].verdict is Decided.DENIED}
        if found != wanted:
            missing, more = sorted(wanted - found), sorted(found - wanted)
            raise WrongReasonError(f"not logged: {missing[:3]}; logged and not denied: {more[:3]}")
        would = _would_be_denied(cluster, {one.packet for one in expected} - {packet for _, packet in wanted})
        noted = {one for one in seen if one[0].verdict is Decided.WOULD_DENY}
        if noted != would:
            missing, more = sorted(would - noted), sorted(noted - would)
            raise WrongReasonError(
                f"would be denied, and not logged so: {missing[:3]}; logged, and would not be: {more[:3]}"
            )
        self.noted += len(noted)
        allowed = {one for one in seen if one[0].verdict is Decided.ALLOWED}
        for judged, packet in allowed:
            if not now(packet).direction(judged.direction).allowed:
                raise WrongReasonError(f"logged as allowed: {judged} {packet}")
        ordered = list(seen)
        for start in range(0, len(ordered), AT_ONCE):
            some = ordered[start : start + AT_ONCE]
            digest = Digest(Inventory(engine.extract, engine.all_pods), 1000.0, lambda: 0.0)
            digest.take([seen[one] for one in some], 0.0)
            flows = [report for report in digest.reports(0.0) if isinstance(report, Flow)]
            for (judged, packet), flow in zip(some, flows, strict=True):
                _same(now(packet), judged, packet, flow)
                self.checked += 1

    def seen(self, probes: Collection[Packet]) -> Seen:
        """Return what was logged of these packets; answers, and what their senders tried again, are not."""
        seen: Seen = {}
        probes = set(probes)
        while logged := self._log.read(0.0):
            for one in logged:
                judged, headers = judged_by(one.prefix), decode(one.payload)
                if judged is None or headers is None or not headers.opens:
                    continue
                packet = Packet(headers.source, headers.destination, headers.protocol, headers.port or 0)
                if packet in probes:
                    seen.setdefault((judged, packet), one)
        if self._log.lost or self._log.overruns:
            raise WrongReasonError(f"{self._log.lost} packets were lost")
        return seen


def _asking(cluster: Cluster) -> Asking:
    """Return what says a packet's verdict, and works it out once."""
    return functools.cache(functools.partial(judge, cluster))


def _denied(cluster: Cluster, ask: Asking, packet: Packet) -> tuple[Judged, Packet] | None:
    """Return which direction denies a packet on the policed node; None where neither does."""
    verdict = ask(packet)
    for direction in (Direction.EGRESS, Direction.INGRESS):
        if is_local(cluster, verdict, direction) and not verdict.direction(direction).allowed:
            return Judged(Decided.DENIED, direction), packet
    return None


def _would_be_denied(cluster: Cluster, passing: Iterable[Packet]) -> set[tuple[Judged, Packet]]:
    """Return which direction denies each packet that passes now, if all that is audited is enforced."""
    then = enforcing(cluster)
    if then == cluster:
        return set()
    found = (_denied(then, _asking(then), packet) for packet in passing)
    return {(Judged(Decided.WOULD_DENY, one[0].direction), one[1]) for one in found if one is not None}


def _same(whole: Verdict, judged: Judged, packet: Packet, flow: Flow) -> None:
    verdict = whole.direction(judged.direction)
    why = reason(verdict, judged.verdict)
    # Not the words: of an address that is no pod's, the whole cluster may know whose it is.
    said, meant = (
        None if one is None else (one.policy, one.rule, one.peer, one.port)
        for one in (flow.nearest, why.nearest)
    )
    expected = (str(verdict.pod), why.policies, why.rules, meant)
    if (flow.pod, flow.policies, flow.rules, said) != expected:
        raise WrongReasonError(f"{judged} {packet} is told as {flow}, and is {why}")
