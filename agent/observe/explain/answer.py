"""The answer to one question as a value: what ``explain --json`` prints and ``/explain`` serves."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence

import msgspec

from agent.kube.model import Key
from agent.net import Direction, Family, address_text
from agent.spec.cluster import Cluster, owner
from agent.spec.evaluator import Endpoint
from agent.spec.question import Question
from agent.spec.verdict import DirectionVerdict, PolicyFinding, Verdict


class Outcome(enum.StrEnum):
    """What becomes of the connection."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNKNOWN = "cannot say"

    @property
    def exit_code(self) -> int:
        return list(Outcome).index(self)


class Part(msgspec.Struct, frozen=True):
    """Whether a rule's peer, or its port, matches, and why or why not."""

    matches: bool
    why: str


class RuleAnswer(msgspec.Struct, frozen=True):
    """What one rule says. ``rule`` counts the policy's rules of a direction from 0."""

    rule: int
    allows: bool
    peer: Part
    port: Part

    @property
    def why(self) -> str:
        """Why it allows, or why what does not match of it does not."""
        parts = (("peer", self.peer), ("port", self.port))
        return ", ".join(f"{what} ({part.why})" for what, part in parts if part.matches is self.allows)


class PolicyAnswer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a policy that isolates the pod says.

    ``not_enforced``: why it allows nothing, if it is over budget.
    """

    policy: str
    rules: tuple[RuleAnswer, ...]
    not_enforced: str = ""


class KernelRule(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A rule in the kernel that decides: its chain and text, what it has counted, and when it last grew.

    ``last_hit``: when a look first saw the number of packets that it has now; None where no look has seen it
    grow.
    """

    about: str
    chain: str
    text: str
    packets: int
    bytes: int
    last_hit: str | None = None


class KernelAnswer(msgspec.Struct, frozen=True):
    """Whether the kernel holds a verdict (``yes``, ``no``, ``unknown``), why not, and which rules decide."""

    holds: str
    why: str
    rules: tuple[KernelRule, ...] = ()


class DirectionAnswer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One direction's verdict: of the source's egress, or of the destination's ingress.

    From a running agent also: ``node``, on which it is enforced; ``here``, whether that is the agent's own;
    and, if so, whether its kernel holds it. ``hints``: what decides nothing and may be a mistake.
    ``audited``: what the audited policies say that select the pod; ``would_deny``: they would deny it;
    ``would_allow``: they would allow what is denied now.
    """

    pod: str | None
    allowed: bool
    isolated: bool
    why: str
    policies: tuple[PolicyAnswer, ...]
    node: str = ""
    here: bool | None = None
    kernel: KernelAnswer | None = None
    hints: tuple[str, ...] = ()
    audited: tuple[PolicyAnswer, ...] = ()
    would_deny: bool = False
    would_allow: bool = False


class ConnectionAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A connection that the kernel tracks: its text, and whether a reply was seen: it is established.

    ``cut``: the agent has ended it (``--cut-denied``), and the kernel drops its packets.
    """

    text: str
    established: bool
    cut: bool = False


class FamilyAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict in one address family. ``connections``: those that the kernel tracks between the two."""

    family: int
    source: str
    destination: str
    port: int
    allowed: bool
    egress: DirectionAnswer
    ingress: DirectionAnswer
    connections: tuple[ConnectionAnswer, ...] = ()

    def direction(self, direction: Direction) -> DirectionAnswer:
        """Return the verdict of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


class Answer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The answer to one question. ``families`` has a verdict for each family that both ends have, IPv4 first.

    ``source`` and ``destination`` are ``namespace/pod`` or an address, ``source_pod`` and ``destination_pod``
    whose address it is. ``reasons`` say why nothing can be said; ``refused`` is a line for each thing that
    could not be used, whether it matters here or not, and ``notes`` for what else there is to know.
    """

    source: str
    destination: str
    protocol: str
    port: int | str
    outcome: Outcome
    reasons: tuple[str, ...]
    refused: tuple[str, ...]
    notes: tuple[str, ...]
    families: tuple[FamilyAnswer, ...]
    source_pod: str = ""
    destination_pod: str = ""


def answer_of(
    question: Question,
    cluster: Cluster,
    verdicts: Sequence[Verdict] = (),
    *,
    reasons: Sequence[str] = (),
    refused: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Answer:
    """Return the answer that verdicts give. With any reason why nothing can be said, that is the outcome."""
    allowed = all(verdict.allowed for verdict in verdicts)
    outcome = Outcome.UNKNOWN
    if verdicts and not reasons:
        outcome = Outcome.ALLOWED if allowed else Outcome.DENIED
    return Answer(
        source=_end(question.source),
        destination=_end(question.destination),
        protocol=question.service.protocol.name,
        port=question.service.port,
        outcome=outcome,
        reasons=tuple(reasons),
        refused=tuple(refused),
        notes=tuple(notes),
        families=tuple(map(_family, verdicts)),
        source_pod=_whose(cluster, question.source),
        destination_pod=_whose(cluster, question.destination),
    )


def as_json(answer: msgspec.Struct) -> str:
    """Return a whole answer as JSON: every policy that isolates, every rule, and why it matches or not."""
    return json.dumps(msgspec.to_builtins(answer), indent=2) + "\n"


def _end(endpoint: Endpoint) -> str:
    return str(endpoint) if isinstance(endpoint, Key) else address_text(endpoint)


def _whose(cluster: Cluster, endpoint: Endpoint) -> str:
    pod = None if isinstance(endpoint, Key) else owner(cluster, endpoint)
    return str(pod.key) if pod is not None else ""


def _family(verdict: Verdict) -> FamilyAnswer:
    return FamilyAnswer(
        family=Family(verdict.family).value,
        source=address_text(verdict.packet.source),
        destination=address_text(verdict.packet.destination),
        port=verdict.packet.port,
        allowed=verdict.allowed,
        egress=_direction(verdict.egress),
        ingress=_direction(verdict.ingress),
    )


def _direction(verdict: DirectionVerdict) -> DirectionAnswer:
    return DirectionAnswer(
        pod=str(verdict.pod) if verdict.pod is not None else None,
        allowed=verdict.allowed,
        isolated=verdict.isolated,
        why=verdict.why,
        policies=tuple(map(_policy, verdict.policies)),
        hints=verdict.hints,
        audited=tuple(map(_policy, verdict.audited)),
        would_deny=verdict.would_deny,
        would_allow=verdict.would_allow,
    )


def _policy(found: PolicyFinding) -> PolicyAnswer:
    rules = tuple(
        RuleAnswer(
            rule.number, rule.allows, Part(rule.peer.yes, rule.peer.why), Part(rule.port.yes, rule.port.why)
        )
        for rule in found.rules
    )
    return PolicyAnswer(str(found.policy), rules, found.not_enforced)
