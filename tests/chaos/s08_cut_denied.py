"""8: connections that go on while a change forbids some of them, by an agent with --cut-denied."""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from agent.net import Family, Protocol
from tests.chaos.probe import Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.sender import softnet_drops
from tests.chaos.stage import Stage, pod_manifest, policy_manifest
from tests.kernel.conversation import Conversation
from tests.lab.cluster import http_get
from tests.lab.lab import Host
from tests.lab.node import Layout, Mode, Pod
from tests.lab.place import Place
from tests.patience import PATIENCE

KEPT, DENIED = 6000, 6001
LIMIT = 3.0
"""Seconds after which a forbidden connection must have ended: one, and two for an agent on a busy machine."""
_BEAT = 0.02
_SILENT = 15
"""Messages of which none arrives where a connection has ended."""
_AGAIN = 5.0
"""Seconds within which what is on its way arrives, what TCP sends again included."""
_NUMBER = struct.Struct("!I")
_PORTS = [{"protocol": p, "port": KEPT} for p in ("TCP", "UDP")]
_TALK = {"matchLabels": {"app": "talk"}}
_INGRESS = {"podSelector": _TALK, "ingress": [{"ports": _PORTS}]}
_EGRESS = {"podSelector": _TALK, "policyTypes": ["Egress"], "egress": [{"ports": _PORTS}]}
_PEERS: Mapping[str, Any] = {
    "podSelector": _TALK,
    "ingress": [
        {
            "from": [
                {"podSelector": {"matchLabels": {"app": "peer"}}},
                *({"ipBlock": {"cidr": cidr}} for cidr in ("172.18.0.0/16", "fd00:172:18::/64")),
            ]
        }
    ],
}


@dataclass
class Scene:
    """The two pods that talk, with each other and with a host outside."""

    stage: Stage
    talk: Pod
    peer: Pod
    out: Host
    arguments: tuple[str, ...] = ("--cut-denied",)

    def say(self, policy: Mapping[str, Any] | None, app: str = "peer", mode: str = "enforce") -> None:
        """Have the policy of the pod ``talk`` be another, or none; and ``peer`` have this label."""
        self.stage.say("talking", [pod_manifest(self.talk), pod_manifest(self.peer, {"app": app})])
        made = [] if policy is None else [policy_manifest("talk", policy)]
        for one in made:
            one["metadata"]["annotations"] = {"netpol-agent.io/mode": mode}
        self.stage.say("talk", made)


Way = tuple[Place, Place, int]


@dataclass(frozen=True)
class Change:
    """What is said before and after, and which ways are denied then; ``down``: the agent does not run."""

    name: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    denied: str
    down: bool = False

    def ways(self, scene: Scene) -> tuple[list[Way], list[Way]]:
        """Return who has opened what to whom: the ways that are denied, and the others."""
        talk, others = scene.talk, (scene.peer, scene.out)
        ingress = [(other, talk, port) for other in others for port in (KEPT, DENIED)]
        egress = [(talk, other, port) for other in others for port in (KEPT, DENIED)]
        by_kind: dict[str, list[Way]] = {
            "ingress": [way for way in ingress if way[2] == DENIED],
            "egress": [way for way in egress if way[2] == DENIED],
            "peer": [way for way in ingress if way[0] is scene.peer],
        }
        denied = by_kind[self.denied]
        return denied, [way for way in (*ingress, *egress) if way not in denied]


NOTHING: Mapping[str, Any] = {"policy": None}
CHANGES = (
    Change("a policy", NOTHING, {"policy": _INGRESS}, "ingress"),
    Change("while the agent was down", NOTHING, {"policy": _INGRESS}, "ingress", down=True),
    Change("a label", {"policy": _PEERS}, {"policy": _PEERS, "app": "stranger"}, "peer"),
    Change("a mode", {"policy": _EGRESS, "mode": "audit"}, {"policy": _EGRESS}, "egress"),
)


@dataclass
class Talk:
    """Connections of which each carries a numbered message both ways every 20 ms."""

    conversations: Sequence[Conversation]
    sent: list[float] = field(default_factory=list)
    """When each message was sent."""
    ended: dict[int, float] = field(default_factory=dict)
    """When an end was told that its TCP connection is over, by descriptor."""
    last: dict[int, int] = field(default_factory=dict)
    """The last message that arrived at an end, and how many did."""
    arrived: dict[int, int] = field(default_factory=dict)

    def ends(self) -> Iterator[socket.socket]:
        for one in self.conversations:
            yield one.client
            yield one.server

    def begin(self) -> None:
        for end in self.ends():
            end.setblocking(False)
            self.last[end.fileno()], self.arrived[end.fileno()] = -1, 0

    def beat(self) -> None:
        """Take what has arrived, and send the next."""
        self.take()
        message = _NUMBER.pack(len(self.sent))
        self.sent.append(time.monotonic())
        for end in self.ends():
            if end.fileno() not in self.ended:
                try:
                    end.send(message)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    self._is_over(end)

    def is_over(self) -> bool:
        """Whether all of TCP is told to be over, and nothing else arrived for a while."""
        streams = {end.fileno() for end in self.ends() if end.type == socket.SOCK_STREAM}
        silent = len(self.sent) - 1 - max(self.last.values())
        return streams <= self.ended.keys() and silent > _SILENT

    def take(self) -> None:
        for end in self.ends():
            number = end.fileno()
            if number in self.ended:
                continue
            try:
                while data := end.recv(_NUMBER.size):
                    if len(data) < _NUMBER.size:
                        continue  # by which it was tried whether the connection is there
                    self.last[number] = _NUMBER.unpack(data)[0]
                    self.arrived[number] += 1
            except BlockingIOError:
                pass
            except ConnectionError:
                self._is_over(end)

    def _is_over(self, end: socket.socket) -> None:
        # A datagram that is refused says nothing of the others.
        if end.type == socket.SOCK_STREAM:
            self.ended[end.fileno()] = time.monotonic()


def _talks(stack: contextlib.ExitStack, ways: Sequence[Way], copies: int) -> Talk:
    made = [
        stack.enter_context(Conversation(*way[:2], family, protocol, way[2]))
        for way, family, protocol, _ in product(ways, Family, (Protocol.TCP, Protocol.UDP), range(copies))
    ]
    talk = Talk(made)
    talk.begin()
    return talk


@dataclass(frozen=True)
class Seen:
    """What became of one change: seconds until the last forbidden connection ended; what was wrong."""

    took: float
    denied: int
    kept: int
    broken: tuple[str, ...]


def try_change(scene: Scene, change: Change, copies: int, limit: float) -> Seen:
    """Make a change while connections go on, and undo it."""
    stage = scene.stage
    scene.say(**change.before)
    stage.start(*scene.arguments)
    dropped = softnet_drops()
    with contextlib.ExitStack() as stack:
        ways = change.ways(scene)
        denied, kept = (_talks(stack, one, copies) for one in ways)
        _beat(1.0, denied, kept)
        if change.down:
            stage.stop(signal.SIGKILL)
        began = time.monotonic()
        scene.say(**change.after)
        if change.down:
            # What is forbidden lives until an agent is there again.
            _beat(0.5, denied, kept)
            stage.start(*scene.arguments, ready=False)
            began = _wait_enforcing(scene, denied, kept)
        until = time.monotonic() + limit
        while time.monotonic() < until and not denied.is_over():
            _beat(_BEAT, denied, kept)
        alive = len(denied.sent) - 1
        _beat(1.0, denied, kept)
        _wait_for_all(kept)
        denied.take()
        broken = [*_not_ended(change, denied, alive), *_touched(change, kept, softnet_drops() - dropped)]
        times = [*denied.ended.values(), *(denied.sent[n] for n in denied.last.values() if n >= 0)]
        took = max(0.0, max(times) - began)
        stage.stop()
        return Seen(took, len(denied.conversations), len(kept.conversations), tuple(broken))


def _beat(seconds: float, *talks: Talk) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for talk in talks:
            talk.beat()
        time.sleep(_BEAT)


def _wait_enforcing(scene: Scene, *talks: Talk) -> float:
    """Go on until the agent enforces; return when that was."""
    until = time.monotonic() + PATIENCE
    while not (scene.stage.agent.process.poll() is None and _enforces(scene)):
        assert time.monotonic() < until, scene.stage.agent.tail()
        _beat(_BEAT, *talks)
    return time.monotonic()


def _enforces(scene: Scene) -> bool:
    try:
        return "[+]kernel ok" in http_get(scene.stage.node, "/readyz")[1]
    except OSError:
        return False


def _not_ended(change: Change, denied: Talk, alive: int) -> Iterator[str]:
    """Name what went on for longer than it may, and each end of TCP that was not told."""
    for one in denied.conversations:
        for end in (one.client, one.server):
            if denied.last[end.fileno()] >= alive:
                yield f"{change.name}: {one} went on"
            elif one.protocol is Protocol.TCP and end.fileno() not in denied.ended:
                yield f"{change.name}: an end of {one} was not reset"


def _wait_for_all(kept: Talk) -> None:
    """Wait until all has arrived that was sent, or for as long as what is lost is sent again."""
    until = time.monotonic() + _AGAIN
    kept.take()
    while time.monotonic() < until and any(count < len(kept.sent) for count in kept.arrived.values()):
        time.sleep(_BEAT)
        kept.take()


def _touched(change: Change, kept: Talk, dropped: int) -> Iterator[str]:
    """Name what was allowed and lost something; ``dropped``: packets that the machine itself has lost."""
    for one in kept.conversations:
        for end in (one.client, one.server):
            if end.fileno() in kept.ended:
                yield f"{change.name}: {one} is allowed and was reset"
            elif kept.arrived[end.fileno()] < len(kept.sent):
                lost = len(kept.sent) - kept.arrived[end.fileno()]
                if one.protocol is Protocol.UDP and lost <= dropped:
                    continue
                yield f"{change.name}: {one} is allowed and lost {lost} of {len(kept.sent)} messages"


def cut(layout: Layout, mode: Mode, loose: int, length: Length) -> Outcome:
    """Make each kind of change while connections go on; undo it; ``loose``: nf_conntrack_tcp_loose."""
    copies = 4 if length is Length.LONG else 1
    changes = CHANGES if length is Length.LONG else CHANGES[1:2]
    limit = length.within(LIMIT)
    with Stage(layout, mode) as stage:
        stage.node.netns.sysctl({"net.netfilter.nf_conntrack_tcp_loose": loose})
        scene = Scene(stage, stage.lab.pod(stage.node, "talk"), stage.lab.pod(stage.node, "peer"), stage.out)
        stage.start("--cut-denied")
        stage.stop()
        with Probe(stage.lanes) as probe:
            seen = [try_change(scene, change, copies, limit) for change in changes]
    note = (
        f"{sum(one.denied for one in seen)} forbidden connections ended within "
        f"{max(one.took for one in seen):.2f} s, {sum(one.kept for one in seen)} others went on"
    )
    return Outcome.of(probe.report, note=note, broken=tuple(line for one in seen for line in one.broken))


SCENARIOS = tuple(
    Scenario(
        promise="8.1",
        also=("8.2", "8.3", "8.4"),
        name=f"cut connections, {layout.value}, {mode.value}, loose {loose}",
        run=functools.partial(cut, layout, mode, loose),
        seconds=45,
        short=(layout, mode, loose) == (Layout.ROUTED, Mode.NFT, 1),
    )
    for layout, mode, loose in (
        (Layout.ROUTED, Mode.NFT, 1),
        (Layout.BRIDGE, Mode.NFT, 0),
        (Layout.BRIDGE, Mode.LEGACY, 1),
    )
)
