"""Connections that outlive their peer: its address is another pod's, and nothing of the old gets in."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from agent.kube import model
from agent.kube.events import Event
from agent.kube.model import Object
from agent.net import Family, Protocol
from tests.kernel.conversation import acknowledged
from tests.kernel.semantics.stage import TIMES, Stage, gone
from tests.kernel.semantics.written import isolated, namespaces, pods, policy
from tests.lab import packets
from tests.lab.cluster import wait_until
from tests.lab.node import Pod
from tests.lab.place import Place
from tests.lab.probe import Flow, Verdict

NEWER = "2025-01-01T00:00:00Z"


def _udp_client(place: Place, address: str, port: int) -> socket.socket:
    """Return a socket of a client that has been answered."""
    with place.netns.entered():
        sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect((address, port))
    sock.send(b"before")
    assert sock.recv(100).startswith(b"before")
    return sock


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextlib.contextmanager
def _connected(place: Place, old: Pod, address: str, port: int) -> Iterator[socket.socket]:
    """Connect to the old pod's TCP 8888 by an address; its side goes without a word when the pod does."""
    with contextlib.ExitStack() as stack:
        with old.netns.entered():
            listener = stack.enter_context(
                socket.create_server(("::", 8888), family=socket.AF_INET6, dualstack_ipv6=True)
            )
        with place.netns.entered():
            client = stack.enter_context(socket.socket(_family(address), socket.SOCK_STREAM))
        for sock in (listener, client):
            sock.settimeout(5)
        client.connect((address, port))
        server = stack.enter_context(listener.accept()[0])
        client.send(b"before")
        assert server.recv(100) == b"before"
        # Else the next pod would be sent the same again too early.
        wait_until(lambda: acknowledged(client))
        yield client


def _keep_sending(client: socket.socket) -> Callable[[bytes], None]:
    """Return a sender that ICMP errors about earlier packets do not stop."""

    def send(data: bytes) -> None:
        for _ in range(100):
            with contextlib.suppress(OSError):
                client.send(data)
                return

    return send


def _segments_arrive(stage: Stage, new: Pod, client: socket.socket, *, patience: float) -> bool:
    """Whether anything of a TCP connection gets to a pod; lost segments are sent again by the kernel."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    deadline = time.monotonic() + patience
    with packets.sniff(new, b"after") as arrived:
        client.send(b"after")  # raises if the connection is not alive
        for _ in range(TIMES - 1):
            _keep_sending(client)(b"after")
        while True:
            stage.lab.settle()
            if arrived.count() > 0:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def _old_pod(stage: Stage) -> tuple[Pod, model.Pod]:
    old = stage.lab.pod(stage.near, "old")
    stage.lab.serve(old, udp=[53])
    return old, stage.pod("old", place=old, ns="x")


def _next_pod(stage: Stage, old: Pod, label: str = "new") -> tuple[Pod, model.Pod]:
    """Take the old pod's namespace away, and give its address to another that serves nothing."""
    stage.lab.remove(old)
    new = stage.lab.pod(stage.near, "new", (old.v4, old.v6))
    reach = [Flow(stage.near, new.address(family), Protocol.TCP, 80) for family in Family]
    stage.lab.wait_for(dict.fromkeys(reach, Verdict.REJECTED))  # its link is up, and known
    return new, stage.pod("new", place=new, ns="x", labels={"pod": label}, started=NEWER)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("open", "at once"),
        ("open", "deletion first"),
        ("isolated", "deletion first"),
        ("isolated", "deletion last"),
    ],
)
def test_an_answered_udp_client_that_keeps_sending(
    stage: Stage, family: Family, before: str, told: str
) -> None:
    """Of the two pods that take the address, only the one that is not isolated gets what is sent."""
    for isolation, expected in ((isolated("new"), 0), (isolated("nobody"), TIMES)):
        old, pod = _old_pod(stage)
        rules = [isolation]
        if before == "isolated":
            rules.append(policy("old", {"matchLabels": {"pod": "old"}}, ingress=[{"from": [pods(pod="a")]}]))
        stage.given(pod, *rules, linger=60)
        with _udp_client(stage.pods["a"], old.address(family), 53) as client:
            send = _keep_sending(client)
            new, newer = _next_pod(stage, old)
            try:
                steps: dict[str, list[list[Event | Object]]] = {
                    "at once": [[gone(pod), newer]],
                    "deletion first": [[gone(pod)], [newer]],
                    "deletion last": [[newer], [gone(pod)]],
                }
                for events in steps[told]:
                    send(b"in between")
                    stage.then(*events)
                    send(b"in between")
                assert stage.arrive(new, send) == expected
            finally:
                stage.lab.remove(new)


@pytest.mark.parametrize("source", ["a", "out"])
def test_an_established_tcp_connection(stage: Stage, family: Family, source: str) -> None:
    for isolation, expected in ((isolated("new"), False), (isolated("nobody"), True)):
        old, pod = _old_pod(stage)
        stage.given(pod, isolation, linger=60)
        with _connected(stage.places[source], old, old.address(family), 8888) as client:
            new, newer = _next_pod(stage, old)
            try:
                stage.then(gone(pod), newer)
                patience = 10 if expected else 0.5
                assert _segments_arrive(stage, new, client, patience=patience) is expected
            finally:
                stage.lab.remove(new)


def test_what_a_deleted_peer_was_allowed_is_not_its_successors(stage: Stage, family: Family) -> None:
    """The pod that takes over the client's address is no peer: the server's answers do not reach it."""
    for label, expected in (("stranger", 0), ("old", TIMES)):
        old, pod = _old_pod(stage)
        stage.given(
            pod,
            policy(
                "server",
                {"matchLabels": {"pod": "s"}},
                ingress=[{"from": [pods(pod="old")]}],
                egress=[{"to": [pods(pod="old"), namespaces(team="nowhere")]}],
                types=["Ingress", "Egress"],
            ),
        )
        with stage.pods["s"].netns.entered():
            server = socket.socket(
                socket.AF_INET6 if family is Family.V6 else socket.AF_INET, socket.SOCK_DGRAM
            )
        with server:
            server.bind((stage.pods["s"].address(family), 5353))
            server.settimeout(5)
            with old.netns.entered():
                client = socket.socket(server.family, socket.SOCK_DGRAM)
            with client:
                client.bind((old.address(family), 4444))
                client.sendto(b"ask", server.getsockname()[:2])
                asked, peer = server.recvfrom(100)
                server.sendto(b"answer", peer)
                assert asked == b"ask"
            new, newer = _next_pod(stage, old, label)
            try:
                stage.then(gone(pod), newer)
                server.connect(peer)
                assert stage.arrive(new, _keep_sending(server)) == expected
            finally:
                stage.lab.remove(new)


def test_a_connection_is_forgotten_on_every_side_of_a_service(stage: Stage, family: Family) -> None:
    """A client of a Service speaks to its address; what the kernel remembers names the pod behind it."""
    for isolation, expected in ((isolated("new"), False), (isolated("nobody"), True)):
        old, pod = _old_pod(stage)
        chain, virtual = "KUBE-SERVICES", "10.96.0.99" if family is Family.V4 else "fd00:10:96::99"
        to = f"{old.v4}:8888" if family is Family.V4 else f"[{old.v6}]:8888"
        rule = [chain, "-t", "nat", *f"-d {virtual} -p tcp --dport 99 -j DNAT --to-destination {to}".split()]
        stage.near.iptables(family, "-A", *rule)
        try:
            stage.given(pod, isolation)
            with _connected(stage.pods["a"], old, virtual, 99) as client:
                new, newer = _next_pod(stage, old)
                try:
                    stage.then(gone(pod), newer)
                    patience = 10 if expected else 0.5
                    assert _segments_arrive(stage, new, client, patience=patience) is expected
                finally:
                    stage.lab.remove(new)
        finally:
            stage.near.iptables(family, "-D", *rule)
