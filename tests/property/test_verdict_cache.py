"""The verdict cache never says more than the rules, whenever the agent is killed, on random histories.

Packets are at their worst here: each that was allowed in any state since old packets were last waited for
adds to the cache after every later step. The promise holds in each state, so also in the one that an agent
leaves that is killed just then.
"""

from __future__ import annotations

import errno
import itertools
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.rules import names
from agent.kernel.ipset_errors import SetError
from agent.kube.events import Delete, Event
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Peer, Rule, Selector
from agent.net import Family, Protocol, family_of
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import labelled, packed, pod, upsert
from tests.property.kernel_model import Kernel, Touched
from tests.property.modelled import make_backend
from tests.property.test_steps import verdict

_CACHES = {family: names.cache("nft", family) for family in Family}
_NAMES = frozenset(name for cache in _CACHES.values() for name in (cache.lookup, cache.entries))


class Killed(BaseException):
    """The agent is dead, and does nothing more."""


class Traffic:
    """Packets that are judged all the time, and add to the cache as late as they can."""

    def __init__(self, kernel: Kernel, packets: list[Packet], random: Random) -> None:
        self.kernel = kernel
        self.packets = packets
        self.random = random
        self.late: set[Packet] = set()
        """Packets on their way that were allowed, and have yet to add themselves."""
        self.left = -1
        """How many more states the agent lives to see; below 0: it is not killed."""
        self.refused: set[Packet] = set()
        """Packets that the rules denied at the last look."""
        self.answered = 0
        self._known: dict[Packet, tuple[bool, bool, set[Touched]]] = {}
        """Whether rules allow a packet, and cache it, and what that depends on."""
        kernel.seen = self.look
        kernel.judged = self.judged

    def allowed(self) -> set[Packet]:
        """Return the packets that rules allow, without the cache, and cache."""
        kernel, cached = self.kernel, self.kernel.cached
        lookups = [kernel.sets[c.lookup][1] for c in _CACHES.values() if c.lookup in kernel.sets]
        named = [set(members) for members in lookups]
        for members in lookups:
            members.clear()
        for packet in self.packets:
            known = self._known.get(packet)
            # Most writes touch nothing that its verdict depends on.
            if known is None or not known[2].isdisjoint(kernel.touched):
                kernel.cached = {}
                met: set[Touched] = set()
                passes, _ = kernel.judge(packet, 0, met)
                caches = any(packet in each for each in kernel.cached.values())
                self._known[packet] = passes, caches, met - _NAMES
        found = {packet for packet, (passes, _, _) in self._known.items() if passes}
        added = {packet for packet, (_, caches, _) in self._known.items() if caches}
        for members, before in zip(lookups, named, strict=True):
            members |= before
        kernel.cached = cached
        self.refused = set(self.packets) - found
        return found & added

    def look(self) -> None:
        self.late |= self.allowed()
        for packet in self.late:
            self.kernel.cached.setdefault(_CACHES[family_of(packet.source)].entries, set()).add(packet)
        for packet in self.packets:
            lookup = _CACHES[family_of(packet.source)].lookup
            if lookup in self.kernel.sets and self.kernel.is_cached(lookup, packet):
                self.answered += 1
                assert packet not in self.refused, packet
        if self.left == 0:
            raise Killed
        self.left -= 1

    def judged(self) -> None:
        if self.left == 0:
            raise Killed
        if self.random.random() < 0.2:
            raise SetError("", "the thread has not come to it yet", code=errno.EAGAIN)
        self.late = self.allowed()


def told() -> list[list[Event]]:
    """Return what is told of three pods that reach each other or not, by their labels and two policies."""
    found: list[list[Event]] = []
    for name, number in _PODS.items():
        addresses = (f"10.0.0.{number}", f"fd00::{number}")
        found += [upsert(pod(name, *addresses, app=label)) for label in "xy"]
    ways = [(), (Rule(),), *((Rule((Peer(labelled(app=label)),)),) for label in "xy")]
    for name, selector in (("p", Selector()), ("q", labelled(app="x"))):
        for rules in ways:
            found.append(upsert(policy(name, selector, ingress=rules)))
            found.append(upsert(policy(name, selector, egress=rules)))
        found.append([Delete(Kind.POLICY, Key("shop", name))])
    return found


def policy(name: str, selector: Selector, **directions: tuple[Rule, ...]) -> NetworkPolicy:
    return NetworkPolicy("shop", name, selector, directions.get("ingress"), directions.get("egress"))


_PODS = {"a": 1, "b": 2, "c": 3}
_TOLD = told()
_PACKETS = [
    Packet(source, destination, *service)
    for prefix, service in itertools.product(("10.0.0.", "fd00::"), ((Protocol.TCP, 80), (Protocol.UDP, 53)))
    for source, destination in itertools.permutations([packed(f"{prefix}{n}") for n in (1, 2, 3)], 2)
]


@given(st.lists(st.sampled_from(_TOLD), min_size=4, max_size=16), st.integers(0, 1 << 32))
def test_the_cache_answers_only_as_the_rules_would_whenever_the_agent_is_killed(
    history: list[list[Event]], seed: int
) -> None:
    answers(history, Random(seed))


def test_the_cache_is_asked_at_all() -> None:
    """Else the test above would show nothing."""
    assert answers(_TOLD, Random(0)) > 100


def answers(history: list[list[Event]], random: Random) -> int:
    """Go through a history, with agents that are killed; return how often the cache had an answer."""
    engine = Engine("here")
    engine.apply([*upsert(Namespace("shop")), *_TOLD[0], *_TOLD[2], *_TOLD[5]], 0.0)
    kernel = Kernel()
    backend = make_backend(kernel)
    traffic = Traffic(kernel, _PACKETS, random)
    assert not backend.sync(engine.lowered).faults
    for events in history:
        delta = engine.apply(events, 0.0)
        traffic.left = random.randrange(12) if random.random() < 0.3 else -1
        try:
            assert not backend.apply(engine.lowered, delta).faults
            if random.random() < 0.3:
                assert not backend.tidy(engine.lowered).faults
        except Killed:
            traffic.left = -1
            backend = make_backend(kernel)
            assert not backend.sync(engine.lowered).faults
        traffic.left = -1
        for packet in traffic.packets:
            assert kernel.passes(packet) == verdict(engine.lowered, packet), packet
    return traffic.answered
