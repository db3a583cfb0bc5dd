"""What a packet's verdict is, and which policies and rules decided it."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube.model import Key
from agent.net import Direction, Family, family_of


class Packet(NamedTuple):
    """The first packet of a connection: packed addresses of one family, as Service translation leaves them.

    ``protocol`` is an IANA number; ``port`` the destination port, 0 for a protocol that has none.
    """

    source: bytes
    destination: bytes
    protocol: int
    port: int


class Answer(NamedTuple):
    """Whether something matches, and why or why not, for people."""

    yes: bool
    why: str


class RuleFinding(NamedTuple):
    """What one rule says of a packet. ``number`` counts the policy's rules of a direction from 0."""

    number: int
    peer: Answer
    port: Answer

    @property
    def allows(self) -> bool:
        return self.peer.yes and self.port.yes


class PolicyFinding(NamedTuple):
    """What a policy that isolates the pod says of a packet, rule by rule.

    ``not_enforced``: why it is not enforced as written and allows nothing; empty where it is.
    """

    policy: Key
    rules: tuple[RuleFinding, ...]
    not_enforced: str = ""

    @property
    def allowing(self) -> tuple[int, ...]:
        """The numbers of the rules that allow the packet."""
        return tuple(rule.number for rule in self.rules if rule.allows)


class DirectionVerdict(NamedTuple):
    """One direction's verdict: of the source pod's egress, or of the destination pod's ingress.

    ``pod`` is the pod judged, None when the address is no pod's. ``policies`` are those that isolate it in
    this direction, sorted by key; without any it is not isolated, or was not asked about, as ``why`` says.
    ``hints``: what decides nothing and may be a mistake (:mod:`agent.spec.hints`). ``audited``: what the
    audited policies say that select the pod and name the direction; they decide nothing.
    """

    direction: Direction
    allowed: bool
    pod: Key | None
    policies: tuple[PolicyFinding, ...]
    why: str
    hints: tuple[str, ...] = ()
    audited: tuple[PolicyFinding, ...] = ()

    @property
    def would_deny(self) -> bool:
        """Whether it would deny what it allows now, if the audited policies were enforced.

        Policies are additive. So beside one that is enforced they could only allow more, and deny nothing.
        """
        return self.allowed and not self.policies and bool(self.audited) and not self.would_allow_by

    @property
    def would_allow(self) -> bool:
        """Whether it would allow what it denies now, if the audited policies were enforced."""
        return not self.allowed and bool(self.would_allow_by)

    @property
    def would_allow_by(self) -> tuple[tuple[Key, int], ...]:
        """Every audited policy and rule that would allow the packet."""
        return tuple((found.policy, number) for found in self.audited for number in found.allowing)

    @property
    def isolated(self) -> bool:
        return bool(self.policies)

    @property
    def allowing(self) -> tuple[tuple[Key, int], ...]:
        """Every policy and rule that allows the packet."""
        return tuple((found.policy, number) for found in self.policies for number in found.allowing)


class Verdict(NamedTuple):
    """Both directions' verdicts of one packet.

    ``caveat`` is empty, or says why the verdict may not be what becomes of the packet: it passes between a
    pod and its own node, which is never policed.
    """

    packet: Packet
    egress: DirectionVerdict
    ingress: DirectionVerdict
    caveat: str = ""

    @property
    def allowed(self) -> bool:
        """Whether both directions allow it."""
        return self.egress.allowed and self.ingress.allowed

    @property
    def would_deny(self) -> bool:
        """Whether it is allowed, and would not be if the audited policies were enforced."""
        return self.allowed and (self.egress.would_deny or self.ingress.would_deny)

    @property
    def family(self) -> Family:
        return family_of(self.packet.source)

    def direction(self, direction: Direction) -> DirectionVerdict:
        """Return the verdict of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress
