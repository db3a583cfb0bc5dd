"""What a running agent answers: the verdict by its objects, and what its kernel holds and does.

The loop is asked once for each question, for the few objects that matter. All else happens on the caller's
thread: the evaluation, the look at the kernel's rules, sets and connections, the look at Services.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from agent.clock import Clock, moment
from agent.dataplane.trace import CountedRule, Fate, Packet, Trace, Tracer
from agent.kube.model import Key, Kind, Pod
from agent.net import Direction, address_text
from agent.observe.explain.answer import (
    Answer,
    ConnectionAnswer,
    DirectionAnswer,
    FamilyAnswer,
    KernelAnswer,
    KernelRule,
    Outcome,
    answer_of,
)
from agent.observe.explain.ends import Inventory, Unresolved, resolve
from agent.observe.hits import Hits
from agent.observe.new_pods import reason as closed_reason
from agent.policy.engine import HeldInvalid
from agent.policy.extract import Extract
from agent.spec import unjudged
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import CannotSayError, Endpoint, evaluate, judge
from agent.spec.question import Question, question_of
from agent.spec.verdict import Verdict

MOST = 24
"""Pairs of one question that are judged; of more, the rest are counted."""

_COMMENT = re.compile(r'--comment "([^"]*)"')


class Connection(NamedTuple):
    """A connection that the kernel tracks: its text, whether a reply was seen, and whether it was cut."""

    text: str
    replied: bool
    cut: bool = False


class LiveAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent answers: one for each pair of pods that the question means, of ``more`` others none.

    ``denied``: connections between the two that were denied lately, the newest first.
    """

    node: str
    at: datetime.datetime
    source: str
    destination: str
    port: str
    outcome: Outcome
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    answers: tuple[Answer, ...]
    more: int = 0
    denied: tuple[str, ...] = ()


class Asked(NamedTuple):
    """A question as it was written."""

    source: str
    destination: str
    port: str


@dataclass(frozen=True)
class Explainer:
    """Answers questions about this node's traffic. For any thread but the loop's own.

    ``extract`` asks the loop (raises TimeoutError when it is busy); ``pods``, ``over_budget`` and
    ``invalid`` may be called from any thread. ``tracer`` looks at the kernel's rules; ``connections`` at
    what it tracks, between a source, a destination, a protocol and a port, and raises OSError. ``denied``
    gives what was denied lately between two ends; ``behind`` says that the objects may be old, if they may;
    ``closed`` whether an address is closed here because no pod is known to have it.
    """

    node: str
    extract: Callable[[Sequence[Endpoint]], Extract]
    pods: Callable[[], Sequence[Pod]]
    invalid: Callable[[], Sequence[HeldInvalid]]
    begun: Callable[[], bool]
    tracer: Callable[[], Tracer]
    connections: Callable[[bytes, bytes, int, int], Sequence[Connection]]
    services: Inventory
    clock: Clock
    hits: Hits
    denied: Callable[[Iterable[Question]], Sequence[str]] = lambda _: ()
    behind: Callable[[], str] = lambda: ""
    closed: Callable[[bytes], bool] = lambda _: False

    def answer(self, asked: Asked) -> LiveAnswer:
        """Answer one question. Raises QuestionError where it cannot be understood."""
        question = question_of(*asked)
        old = tuple(filter(None, [self.behind()]))
        try:
            meant = resolve(question, self.services)
        except Unresolved as error:
            return self._told(asked, (), reasons=(str(error),), notes=old)
        questions = meant.questions[:MOST]
        extract = self.extract(list(dict.fromkeys(end for one in questions for end in one[:2])))
        cluster = self._cluster(extract, questions)
        tracer = self.tracer()
        answers = tuple(self._answer(one, cluster, extract, tracer) for one in questions)
        return self._told(
            asked,
            answers,
            notes=(*old, *meant.notes),
            more=len(meant.questions) - len(questions),
            denied=tuple(self.denied(questions)),
        )

    def verdicts(self, ends: Sequence[str], port: str) -> dict[tuple[str, str], tuple[Outcome, str]]:
        """Return the verdict of each pair of ends, and in a line why; the kernel is not asked.

        Raises QuestionError.
        """
        asked = {
            (source, destination): question_of(source, destination, port)
            for source in ends
            for destination in ends
            if source != destination
        }
        extract = self.extract(list(dict.fromkeys(end for one in asked.values() for end in one[:2])))
        cluster = self._cluster(extract, list(asked.values()))
        return {pair: self._in_short(one, cluster) for pair, one in asked.items()}

    def _in_short(self, question: Question, cluster: Cluster) -> tuple[Outcome, str]:
        try:
            verdicts = [self._judged(cluster, verdict) for verdict in _evaluated(cluster, question)]
        except CannotSayError as error:
            return Outcome.UNKNOWN, str(error)
        for verdict in verdicts:
            for direction in Direction:
                half = verdict.direction(direction)
                if not half.allowed:
                    return Outcome.DENIED, f"IPv{verdict.family} {direction} of {half.pod}: {half.why}"
        return Outcome.ALLOWED, "both directions allow it"

    def _told(
        self,
        asked: Asked,
        answers: tuple[Answer, ...],
        *,
        reasons: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        more: int = 0,
        denied: tuple[str, ...] = (),
    ) -> LiveAnswer:
        outcomes = {answer.outcome for answer in answers}
        worst = next((one for one in (Outcome.DENIED, Outcome.UNKNOWN) if one in outcomes), Outcome.ALLOWED)
        return LiveAnswer(
            node=self.node,
            at=moment(self.clock.time()),
            source=asked.source,
            destination=asked.destination,
            port=asked.port,
            outcome=worst if answers else Outcome.UNKNOWN,
            reasons=reasons,
            notes=notes,
            answers=answers,
            more=more,
            denied=denied,
        )

    def _cluster(self, extract: Extract, questions: Sequence[Question]) -> Cluster:
        """Return the part of the cluster that matters, with what policies cost on this node."""
        pods = {pod.key: pod for pod in extract.pods}
        owned = {address for pod in pods.values() for address in pod.addresses}
        strangers = {end for one in questions for end in one[:2] if isinstance(end, bytes)} - owned
        if strangers:
            # Pods on their host's network have addresses that are no pod's own.
            pods |= {pod.key: pod for pod in self.pods() if strangers.intersection(pod.addresses)}
        over = extract.over_budget
        return cluster_of(
            (*pods.values(), *extract.namespaces, *extract.policies),
            (lambda counted, *_: {p.key: over[p.key] for p, _ in counted if p.key in over}) if over else None,
        )

    def _answer(self, question: Question, cluster: Cluster, extract: Extract, tracer: Tracer) -> Answer:
        try:
            verdicts = [self._judged(cluster, verdict) for verdict in _evaluated(cluster, question)]
        except CannotSayError as error:
            return answer_of(question, cluster, reasons=(str(error),))
        caveats = [
            unjudged.not_only_judged(end)
            for end in question[:2]
            if isinstance(end, bytes) and owner(cluster, end) is None
        ]
        caveats += [verdict.caveat for verdict in verdicts]
        answer = answer_of(
            question,
            cluster,
            verdicts,
            reasons=tuple(filter(None, dict.fromkeys(caveats))),
            notes=tuple(self._standins(extract, verdicts)),
        )
        families = tuple(
            self._detailed(cluster, family, verdict, tracer)
            for family, verdict in zip(answer.families, verdicts, strict=True)
        )
        return self._closing(msgspec.structs.replace(answer, families=families), verdicts)

    def _closing(self, answer: Answer, verdicts: Sequence[Verdict]) -> Answer:
        """Take it into account that an address is closed here until a pod is known to have it."""
        families = tuple(map(self._closed_family, answer.families, verdicts))
        if families == answer.families:
            return answer
        return msgspec.structs.replace(answer, families=families, outcome=Outcome.DENIED)

    def _closed_family(self, family: FamilyAnswer, verdict: Verdict) -> FamilyAnswer:
        ends = {Direction.EGRESS: verdict.packet.source, Direction.INGRESS: verdict.packet.destination}
        closed = {
            direction.value: msgspec.structs.replace(
                family.direction(direction),
                allowed=False,
                why=closed_reason(address_text(address)),
                node=self.node,
                here=True,
            )
            for direction, address in ends.items()
            if self.closed(address)
        }
        return msgspec.structs.replace(family, allowed=False, **closed) if closed else family

    def _judged(self, cluster: Cluster, verdict: Verdict) -> Verdict:
        """Take what policies cost into account on this node alone: of others' budgets it knows nothing."""
        plain = Cluster(cluster.pods, cluster.namespaces, cluster.policies, cluster.nodes)
        elsewhere = [d for d in Direction if self._node_of(cluster, verdict, d) != self.node]
        if not elsewhere or cluster.limit is None:
            return verdict
        other = judge(plain, verdict.packet)
        return verdict._replace(
            egress=(other if Direction.EGRESS in elsewhere else verdict).egress,
            ingress=(other if Direction.INGRESS in elsewhere else verdict).ingress,
        )

    def _standins(self, extract: Extract, verdicts: Sequence[Verdict]) -> Iterable[str]:
        """Say which policies that decide are not valid as the API server has them."""
        deciding = {f.policy for v in verdicts for d in Direction for f in v.direction(d).policies}
        for held in self.invalid():
            if held.kind is not Kind.POLICY or held.key not in deciding:
                continue
            why = held.problems[0]
            what = (
                "isolates and allows nothing"
                if held.key in extract.standins
                else "its last good version holds"
            )
            yield f"NetworkPolicy {held.key} is not valid ({why.field}: {why.message}): {what}"

    def _node_of(self, cluster: Cluster, verdict: Verdict, direction: Direction) -> str:
        key = verdict.direction(direction).pod
        return cluster.pods[key].node if key is not None else ""

    def _detailed(
        self, cluster: Cluster, family: FamilyAnswer, verdict: Verdict, tracer: Tracer
    ) -> FamilyAnswer:
        """Add what is known of each direction's node, kernel and connections."""
        directions = {
            direction.value: self._direction(cluster, family.direction(direction), verdict, direction, tracer)
            for direction in Direction
        }
        return msgspec.structs.replace(family, **directions, connections=self._connections(verdict))

    def _direction(
        self,
        cluster: Cluster,
        answer: DirectionAnswer,
        verdict: Verdict,
        direction: Direction,
        tracer: Tracer,
    ) -> DirectionAnswer:
        node = self._node_of(cluster, verdict, direction)
        key = verdict.direction(direction).pod
        here = node == self.node if key is not None else None
        kernel = None
        if here and key is not None:
            kernel = self._kernel(key, answer, verdict, direction, tracer)
        return msgspec.structs.replace(answer, node=node, here=here, kernel=kernel)

    def _kernel(
        self, pod: Key, answer: DirectionAnswer, verdict: Verdict, direction: Direction, tracer: Tracer
    ) -> KernelAnswer:
        if not self.begun():
            return KernelAnswer(
                "unknown", "the agent has not written rules yet; an earlier agent's may be in force"
            )
        packet = Packet(*verdict.packet)
        try:
            trace = tracer.trace(direction, pod, packet)
        except OSError as error:
            return KernelAnswer("unknown", f"the kernel cannot be read: {error}")
        rules = (trace.rule,) if trace.rule is not None else trace.near
        told = tuple(self._rule(int(packet.family), rule) for rule in rules)
        holds, why = _agrees(answer, trace)
        return KernelAnswer(holds, why, told)

    def _rule(self, family: int, rule: CountedRule) -> KernelRule:
        now = self.clock.time()
        hit = self.hits.saw((family, rule.chain, rule.text), rule.packets, now)
        comment = _COMMENT.search(rule.text)
        return KernelRule(
            about=comment.group(1) if comment else "",
            chain=rule.chain,
            text=rule.text,
            packets=rule.packets,
            bytes=rule.bytes,
            last_hit=moment(hit).isoformat(timespec="seconds") if hit is not None else None,
        )

    def _connections(self, verdict: Verdict) -> tuple[ConnectionAnswer, ...]:
        packet = verdict.packet
        try:
            found = self.connections(packet.source, packet.destination, packet.protocol, packet.port)
        except OSError as error:
            return (ConnectionAnswer(f"connections cannot be read: {error}", established=False),)
        found = sorted(found, key=lambda one: one.cut)
        return tuple(ConnectionAnswer(one.text, one.replied and not one.cut, one.cut) for one in found[:MOST])


def _evaluated(cluster: Cluster, question: Question) -> Sequence[Verdict]:
    source, destination, (protocol, port) = question
    return evaluate(cluster, source, destination, protocol, port)


def _agrees(answer: DirectionAnswer, trace: Trace) -> tuple[str, str]:
    """Say whether the kernel does what a verdict says, and why not."""
    if trace.fate is Fate.UNKNOWN:
        return "unknown", trace.why
    if trace.fate is Fate.NOT_JUDGED and not answer.isolated:
        return "yes", "the kernel does not judge it either"
    if trace.fate is Fate.NOT_JUDGED:
        return "no", f"the kernel does not judge it, so it passes: {trace.why}"
    if (trace.fate is Fate.ALLOWED) is answer.allowed:
        return "yes", ""
    does = "allows" if trace.fate is Fate.ALLOWED else "denies"
    return "no", f"the kernel {does} it" + (f": {trace.why}" if trace.why else "")
