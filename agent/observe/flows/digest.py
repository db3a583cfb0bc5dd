"""From logged packets to reports: folded, named from the inventory, and explained by the specification.

::

    Logged ──► Headers ──► Folding ── new ──► names and reason ──► report
                              └───── window ended ──► the same, with a count

What comes is bounded at each step, and what is left out is counted and told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.clock import Moment, moment
from agent.dataplane.logged import Cause, judged_by
from agent.kernel.conntrack import Tuple
from agent.kernel.headers import ICMP, ICMPV6, Headers, decode
from agent.kernel.nflog import Logged
from agent.net import Direction, Protocol, address_text
from agent.observe.flows.flow import End, Flow, Report, Unlogged
from agent.observe.flows.fold import Folding, Repeats, Sort
from agent.observe.flows.inventory import Inventory
from agent.observe.flows.why import Reason, by_link, cluster_in, judged_reason
from agent.observe.new_pods import reason as closed_reason
from agent.spec.cluster import Cluster, owner
from agent.spec.verdict import Packet

AT_ONCE = 64
"""New sorts of packet that are named together: the loop is asked for no more at a time."""

A_SECOND = 50
"""New sorts of packet that are reported in a second, after a burst of ``BURST``: each may take some
milliseconds to explain."""
BURST = 200

HOSTS_KEPT = 30.0
"""Seconds for which it is remembered which node has which address."""

_NAMES = {protocol.value: protocol.name for protocol in Protocol} | {ICMP: "ICMP", ICMPV6: "ICMPv6"}
_MIDDLE = "it is not the first packet of a connection, and connection tracking does not know the connection"
_FRAGMENT = "it is a later fragment of a packet, without ports"


class _New(NamedTuple):
    number: int
    sort: Sort
    at: float
    original: Tuple | None
    repeats: Repeats | None = None


class Digest:
    """Takes packets and the time; returns what is to be told. One thread uses it.

    ``wall`` gives ``time.time()`` seconds for packets that bear no time. ``service_name`` names the
    Service that has an address, as far as it is known.
    """

    def __init__(
        self,
        inventory: Inventory,
        window: float,
        wall: Callable[[], float],
        service_name: Callable[[bytes], str] = lambda _: "",
    ) -> None:
        self._service_name = service_name
        self._inventory = inventory
        self._wall = wall
        self._folding = Folding(window)
        self._numbers: dict[Sort, tuple[int, Tuple | None]] = {}
        self._next = 1
        self._waiting: list[_New] = []
        self._left_out: Counter[str] = Counter()
        self._tokens, self._filled = float(BURST), 0.0
        self._hosts: Mapping[bytes, str] = {}
        self._hosts_until = float("-inf")
        self._window = window
        self._tell_at = float("inf")

    @property
    def waiting(self) -> int:
        """How many new sorts wait to be named."""
        return len(self._waiting)

    def moment(self) -> Moment:
        """Return the time of now."""
        return moment(self._wall())

    def due(self) -> float | None:
        """Return when :meth:`reports` has something to return without new packets, in monotonic seconds."""
        found = [at for at in (self._folding.due(), self._tell_at) if at is not None and at != float("inf")]
        return min(found, default=None)

    def left_out(self, packets: int, why: str, now: float) -> None:
        """Take note of packets that are not reported."""
        if packets:
            self._left_out[why] += packets
            self._tell_at = min(self._tell_at, now + self._window)

    def take(self, packets: Iterable[Logged], now: float) -> None:
        """Take packets as they were read."""
        self._tokens = min(float(BURST), self._tokens + (now - self._filled) * A_SECOND)
        self._filled = now
        for packet in packets:
            judged, headers = judged_by(packet.prefix), decode(packet.payload)
            if judged is None or headers is None:
                self.left_out(1, "they cannot be read", now)
                continue
            at = packet.at or self._wall()
            sort = Sort(judged, *headers[:3], _port(headers), headers.opens, headers.fragment)
            new = self._folding.take(sort, at, now)
            if new is None:
                self.left_out(1, "there are too many different ones", now)
            elif new and self._tokens < 1:
                self._folding.forget(sort)
                self.left_out(1, "there are too many different ones", now)
            elif new:
                self._tokens -= 1
                original = packet.original
                self._numbers[sort] = (self._next, original)
                self._waiting.append(_New(self._next, sort, at, original))
                self._next += 1

    def reports(self, now: float) -> list[Report]:
        """Return what there is to tell. It asks the inventory, so it may wait for the loop.

        What could not be asked about is reported all the same, without names.
        """
        for repeats in self._folding.ended(now):
            number, original = self._numbers[repeats.sort]
            self._waiting.append(_New(number, repeats.sort, repeats.first, original, repeats))
        waiting, self._waiting = self._waiting, []
        found: list[Report] = []
        for start in range(0, len(waiting), AT_ONCE):
            found += self._named(waiting[start : start + AT_ONCE], now)
        if self._tell_at <= now:
            self._tell_at = float("inf")
            at = self.moment()
            found += [Unlogged(at, packets, why) for why, packets in sorted(self._left_out.items())]
            self._left_out.clear()
        self._prune()
        return found

    def _prune(self) -> None:
        """Forget the numbers of sorts that are not known any more."""
        if len(self._numbers) > 2 * len(self._folding) + AT_ONCE:
            self._numbers = {s: number for s, number in self._numbers.items() if self._folding.knows(s)}

    def _named(self, some: Sequence[_New], now: float) -> list[Report]:
        addresses = list(dict.fromkeys(address for new in some for address in new.sort[1:3]))
        try:
            extract = self._inventory.extract(addresses)
        except TimeoutError:
            return [self._report(new, None, frozenset()) for new in some]
        cluster = cluster_in(extract)
        standins = frozenset(map(str, extract.standins))
        if any(owner(cluster, address) is None for address in addresses):
            self._look_for_hosts(now)
        return [self._report(new, cluster, standins) for new in some]

    def _look_for_hosts(self, now: float) -> None:
        """Learn which addresses are nodes', from the pods that use their node's."""
        if now < self._hosts_until:
            return
        self._hosts_until = now + HOSTS_KEPT
        try:
            pods = self._inventory.pods()
        except TimeoutError:
            return
        self._hosts = {a: pod.node for pod in pods if pod.host_network for a in pod.addresses}

    def _report(self, new: _New, cluster: Cluster | None, standins: frozenset[str]) -> Flow:
        sort, repeats = new.sort, new.repeats
        judged, icmp = sort.judged, sort.port if isinstance(sort.port, tuple) else None
        port = sort.port if isinstance(sort.port, int) else None
        source, destination = self._end(cluster, sort.source), self._end(cluster, sort.destination, port)
        why = Reason("the agent was too busy to say why")
        own = destination if judged.direction is Direction.INGRESS else source
        pod = own.pod
        if judged.cause is Cause.UNKNOWN:
            pod = ""
            why = Reason(closed_reason(own.address))
        elif judged.cause is not None:
            key = self._inventory.links().get(judged.link)
            pod = "" if key is None else str(key)
            why = Reason(by_link(judged, own.address, own.pod, pod))
        elif cluster is not None:
            packet = Packet(sort.source, sort.destination, sort.protocol, port or 0)
            asked = _asked(new)
            asked_port = asked[1] if asked else None
            why = judged_reason(cluster, judged.direction, packet, judged.verdict, standins, asked_port)
        notes = [] if sort.opens else [_MIDDLE]
        if sort.fragment:
            notes.append(_FRAGMENT)
        return Flow(
            number=new.number,
            first=moment(new.at),
            last=moment(repeats.last if repeats else new.at),
            verdict=judged.verdict,
            direction=judged.direction,
            pod=pod,
            protocol=_NAMES.get(sort.protocol, f"protocol {sort.protocol}"),
            source=source,
            destination=destination,
            why=why.why,
            count=repeats.packets if repeats else 1,
            policies=why.policies,
            rules=why.rules,
            nearest=why.nearest,
            service=self._service(new),
            icmp=icmp,
            notes=tuple(notes),
        )

    def _service(self, new: _New) -> End | None:
        """Return what was asked for, where translation has made something else of it."""
        asked = _asked(new)
        if asked is None:
            return None
        address, port = asked
        return End(address_text(address), port, service=self._service_name(address))

    def _end(self, cluster: Cluster | None, address: bytes, port: int | None = None) -> End:
        pod = owner(cluster, address) if cluster is not None else None
        text = address_text(address)
        if pod is None:
            return End(text, port, node=self._hosts.get(address, ""))
        return End(text, port, str(pod.key), pod.namespace, pod.node, pod.uid, pod.workload)


def _port(headers: Headers) -> int | tuple[int, int] | None:
    return headers.icmp if headers.icmp is not None else headers.port


def _asked(new: _New) -> tuple[bytes, int | None] | None:
    """Return the address and port that were asked for, where translation has made others of them."""
    original = new.original
    if original is None or original.protocol != new.sort.protocol:
        return None
    port = new.sort.port if isinstance(new.sort.port, int) else None
    asked = original.port if port is not None else None
    if (original.destination, asked) == (new.sort.destination, port):
        return None
    # A reply, or what an error is about, has its connection's first packet the other way round.
    return (original.destination, asked) if original.source == new.sort.source else None
