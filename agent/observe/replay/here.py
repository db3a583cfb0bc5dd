"""What a running agent tells for a replay: the connections of its node, and the objects that decide them.

``/seen`` answers with both, ``/seen?ends=shop/web,10.9.8.7`` with the objects for these ends alone.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from agent.decoding import decode as decode_json
from agent.kernel.conntrack import ConntrackError, Tracked
from agent.kube.model import Key, Namespace, NetworkPolicy, Pod
from agent.net import Network, address_text
from agent.observe.flows.flow import Flow, Report
from agent.observe.replay.seen import Seen, Sort, ends_of, gather, logged
from agent.observe.routes import JSON, TEXT, Request, Response
from agent.policy.extract import Extract
from agent.spec.cluster import cluster_of, owner

MOST = 20_000
"""Sorts of connection that are told; of more, the rest are counted."""
ENDS = 100
"""Ends that may be asked about in one request: its headers may have 16 KiB."""
_AT_ONCE = 500
"""Ends that the loop is asked about at once."""


class Here(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent tells.

    ``more`` sorts of connection were not told. ``unread`` says why tracked connections cannot be read, empty
    where they were. ``over_budget`` says of policies, by ``namespace/name``, why this node does not enforce
    them as written. The objects are those on which the verdict between the ends depends.
    """

    node: str
    connections: tuple[Seen, ...] = ()
    more: int = 0
    unread: str = ""
    pods: tuple[Pod, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    policies: tuple[NetworkPolicy, ...] = ()
    over_budget: dict[str, str] = {}


class Surroundings(NamedTuple):
    """What is never judged: the node's own addresses, and other nodes' networks where they are let in."""

    own: Collection[bytes] = ()
    nodes: Collection[Network] = ()

    def never_judge(self, source: bytes, destination: bytes) -> bool:
        return (
            source in self.own
            or destination in self.own
            or any(_within(source, network) for network in self.nodes)
        )


def _within(address: bytes, network: Network) -> bool:
    bits = 8 * len(address) - network.prefix
    return len(address) == len(network.address) and (
        int.from_bytes(address) >> bits == int.from_bytes(network.address) >> bits
    )


@dataclass(frozen=True)
class Witness:
    """Tells what this node has seen. For any thread but the loop's own.

    ``extract`` asks the loop (raises TimeoutError when it is busy). ``local`` gives the addresses of this
    node's pods; ``tracked`` the connections from or to some addresses, and raises ConntrackError; ``around``
    what is never judged, and raises OSError; ``reports`` what was logged lately.
    """

    node: str
    extract: Callable[[Sequence[Key | bytes]], Extract]
    pods: Callable[[], Iterable[Pod]]
    local: Callable[[], frozenset[bytes]]
    tracked: Callable[[Collection[bytes]], Iterable[Tracked]]
    around: Callable[[], Surroundings]
    reports: Callable[[], Iterable[Report]]

    def tell(self) -> Here:
        """Return the connections and their objects."""
        sorts, unread = self._tracked()
        objects = self._objects(dict.fromkeys(end for sort in sorts for end in sort[:2]))
        owners = _owners(objects.pods)
        parts = [
            ((self.node, ""), Seen(_named(sort, owners), tracked=number))
            for sort, number in sorts.most_common(MOST)
        ]
        parts += [
            ((self.node, one.direction), seen)
            for one in self.reports()
            if isinstance(one, Flow) and (seen := logged(one)) is not None
        ]
        connections = gather(parts)
        more = max(0, len(sorts) - MOST)
        named = self._objects(_ends(ends_of(connections)))
        return msgspec.structs.replace(named, connections=tuple(connections), more=more, unread=unread)

    def about(self, ends: Iterable[str]) -> Here:
        """Return the objects for ends alone: pods as ``namespace/name``, and addresses. Raises ValueError."""
        return self._objects(_ends(ends))

    def _tracked(self) -> tuple[Counter[tuple[bytes, bytes, int, int]], str]:
        found: Counter[tuple[bytes, bytes, int, int]] = Counter()
        try:
            around, local = self.around(), self.local()
            for one in self.tracked(local):
                reply = one.reply
                sort = (one.opened.source, reply.source, reply.protocol, reply.source_port)
                # What a pod is asked through a translation, not through what it has asked itself.
                if len(sort[0]) == len(sort[1]) and not around.never_judge(*sort[:2]):
                    found[sort] += 1
        except ConntrackError as error:
            return found, f"{error.what}; {error.remedy}"
        except OSError as error:
            return found, f"the node's addresses cannot be read: {error.strerror}"
        return found, ""

    def _objects(self, ends: Iterable[Key | bytes]) -> Here:
        asked = list(ends)
        pods: dict[Key, Pod] = {}
        namespaces: dict[str, Namespace] = {}
        policies: dict[Key, NetworkPolicy] = {}
        over: dict[str, str] = {}
        for start in range(0, len(asked), _AT_ONCE):
            found = self.extract(asked[start : start + _AT_ONCE])
            pods |= {pod.key: pod for pod in found.pods}
            namespaces |= {one.name: one for one in found.namespaces}
            policies |= {policy.key: policy for policy in found.policies}
            over |= {str(key): why for key, why in found.over_budget.items()}
        owned = {address for pod in pods.values() for address in pod.addresses}
        if strangers := {end for end in asked if isinstance(end, bytes)} - owned:
            # Pods on their host's network have addresses that are no pod's own.
            pods |= {
                pod.key: pod
                for pod in self.pods()
                if pod.host_network and strangers.intersection(pod.addresses)
            }
        return Here(
            self.node,
            pods=tuple(pods.values()),
            namespaces=tuple(namespaces.values()),
            policies=tuple(policies.values()),
            over_budget=over,
        )


def _owners(pods: Iterable[Pod]) -> dict[bytes, str]:
    """Return whose an address is, of the pods that claim it: as the specification has it."""
    found = list(pods)
    claims = Counter(address for pod in found if pod.judged for address in pod.addresses)
    owners = {a: str(pod.key) for pod in found if pod.judged for a in pod.addresses if claims[a] == 1}
    twice = [address for address, number in claims.items() if number > 1]
    if twice:
        cluster = cluster_of(found)
        owners |= {a: str(pod.key) for a in twice if (pod := owner(cluster, a)) is not None}
    return owners


def _named(sort: tuple[bytes, bytes, int, int], owners: dict[bytes, str]) -> Sort:
    source, destination, protocol, port = sort
    return Sort(
        address_text(source),
        address_text(destination),
        protocol,
        port,
        owners.get(source, ""),
        owners.get(destination, ""),
    )


def _ends(texts: Iterable[str]) -> Iterator[Key | bytes]:
    """Give what texts name. Raises ValueError."""
    for text in dict.fromkeys(texts):
        yield Key.of(text) if "/" in text else ipaddress.ip_address(text).packed


def answer(witness: Witness, request: Request) -> Response:
    """Answer ``/seen``."""
    ends = [*filter(None, request.one("ends").split(","))]
    if len(ends) > ENDS:
        return Response(400, TEXT, f"ask about {ENDS} ends at most\n".encode())
    try:
        found = witness.about(ends) if ends else witness.tell()
    except ValueError as error:
        return Response(400, TEXT, f"an end is a pod as NAMESPACE/NAME, or an address: {error}\n".encode())
    except TimeoutError as error:
        return Response(503, TEXT, f"the agent is busy: {error}; ask again\n".encode())
    return Response(200, JSON, msgspec.json.encode(found) + b"\n")


def decode(body: bytes) -> Here:
    """Return what an agent has told. Raises :class:`agent.decoding.UndecodableError`."""
    return decode_json(body, Here)
