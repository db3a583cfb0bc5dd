"""The decoders, each with what it may raise and examples of what it reads."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from agent.dataplane.frames import table as frames
from agent.dataplane.iptables.rules import comments, parse
from agent.dataplane.iptables.tables import foreign, markuse, tables
from agent.history import query
from agent.kernel import answers, conntrack, headers, nf_write, nflog, rtnetlink, tunnels
from agent.kernel.ipset_members import decode_members
from agent.kernel.netlink import attribute, attributes
from agent.kernel.nf_tables import Rule
from agent.kube import address, facts, wire
from agent.kube.logging import logging_of
from agent.kube.manifest import read_text
from agent.kube.model import Kind
from agent.kube.text import UnreadableError
from agent.proof.frames.lines import line
from agent.sources.apiserver import proof
from agent.sources.cni import result
from agent.sources.nri import messages
from agent.sources.nri.protobuf import MalformedError, bytes_field
from agent.sources.nri.trunk import Trunk
from agent.spec.question import QuestionError, question_of
from tests.lab import packets

V4 = "10.1.0.2", "10.2.0.2"
V6 = "fd01::2", "fd02::2"


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. ``refuses``: what it may raise; anything else is a defect."""

    name: str
    read: Callable[[bytes], object]
    examples: Sequence[bytes]
    refuses: tuple[type[Exception], ...] = ()

    def try_on(self, data: bytes) -> None:
        """Give it some bytes. Raises what the decoder may not raise."""
        with contextlib.suppress(*self.refuses):
            self.read(data)


def _texts(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a reader of bytes for one of text: as a command's output is decoded."""
    return lambda data: read(data.decode(errors="surrogateescape"))


def _nested(*pairs: tuple[int, bytes]) -> bytes:
    return b"".join(attribute(kind, payload) for kind, payload in pairs)


_TUPLE = _nested(
    (1, _nested((1, b"\x0a\1\0\2"), (2, b"\x0a\2\0\2"))),
    (2, _nested((1, b"\6"), (2, struct.pack("!H", 40000)), (3, struct.pack("!H", 80)))),
)
_LOGGED = b"\2\0\0\0" + _nested(
    (1, struct.pack("!HBx", 0x0800, 2)),
    (10, b"KUBE-DENIED\0"),
    (9, packets.tcp_syn(*V4, 80)),
    (18, attribute(1, _TUPLE)),
)
_LINK = struct.pack("=HiII", 1, 2, 1, 0) + _nested(
    (3, b"eth0\0"), (18, _nested((1, b"vxlan\0"), (2, _nested((15, struct.pack("!H", 4789))))))
)
_FRAME_RULE = nf_write.counted() + nf_write.compared(b"\2") + nf_write.verdict("goto", "drop")
_FRAME_CHAIN = nf_write.add_chain("frames", "link-veth1", "veth1", -500).attributes
_POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "a", "namespace": "shop", "uid": "1", "resourceVersion": "7", "annotations": {}},
    "spec": {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
        "egress": [{"ports": [{"port": 53, "endPort": 54, "protocol": "UDP"}, {"port": "http"}]}],
    },
}
_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "namespace": "shop", "uid": "2", "resourceVersion": "8", "labels": {"a": "b"}},
    "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
    "status": {"phase": "Running", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd01::2"}]},
}
_NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "uid": "3"}}
_NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n", "uid": "4", "resourceVersion": "9"},
    "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}
_OBJECTS = {Kind.POLICY: _POLICY, Kind.POD: _POD, Kind.NAMESPACE: _NAMESPACE, Kind.NODE: _NODE}
_SAVED = b"""*filter
:FORWARD DROP [0:0]
:KUBE-POD-FW-aaaaaaaaaaaaaaaa - [0:0]
-A FORWARD -s 10.0.0.0/8 -m comment --comment "say \\"x\\" -j DROP" -j ACCEPT
-A FORWARD -m string --string "-j" --algo bm -j DOCKER-USER
-A KUBE-POD-FW-aaaaaaaaaaaaaaaa -s 10.1.0.2/32 -m comment --comment "pod shop/a" -g KUBE-POD-FW-b
-A KUBE-POD-FW-aaaaaaaaaaaaaaaa -m set --match-set KUBE-SRC-4-aa src -j MARK --set-xmark 0x10000/0x10000
COMMIT
"""


def _json(data: object) -> bytes:
    return json.dumps(data).encode()


_NRI_REQUEST = messages.call(
    messages.PLUGIN,
    "RunPodSandbox",
    bytes_field(1, bytes_field(1, b"c1") + bytes_field(10, b"10.1.0.2")),
    2.0,
)


def _nri_request(data: bytes) -> object:
    asked = messages.call_of(data)
    reads = (messages.sandbox_of, messages.state_change_of, messages.configuration_of, messages.has_more)
    found: list[object] = []
    for read in (*reads, messages.refused):
        with contextlib.suppress(MalformedError):
            found.append(read(asked.payload))
    return found


class _Fed:
    """A socket that gives some bytes, in pieces."""

    def __init__(self, data: bytes) -> None:
        self._pieces = iter([data[at : at + 7] for at in range(0, len(data), 7)])

    def recv(self, most: int) -> bytes:
        del most
        return next(self._pieces, b"")


def _nri_bytes(data: bytes) -> object:
    trunk = Trunk(cast("socket.socket", _Fed(data)))
    found: list[object] = []
    while (message := trunk.receive()) is not None:
        found.append(message)
    return found


_RESULT = _json(
    {
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": "e30=",
        "ifName": "eth0",
        "networkName": "lab",
        "cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "a"], ["K8S_POD_UID", "u-1"]],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/proc/1/ns/net"}],
            "ips": [{"address": "10.1.0.2/24", "interface": 1}, {"address": "fd01::2/64", "interface": 1}],
            "ip4": {"ip": "10.1.0.2/24"},
        },
    }
)


def _whole_list(kind: Kind) -> bytes:
    first = _OBJECTS[kind]
    meta = {"resourceVersion": "10"}
    return _json(
        {"kind": f"{kind.value}List", "apiVersion": first["apiVersion"], "metadata": meta, "items": [first]}
    )


def _line(kind: Kind) -> bytes:
    return _json({"type": "ADDED", "object": _OBJECTS[kind]})


def _of_each_rule(read: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: [read(line) for line in text.split("\n")]


def _facts(data: bytes) -> object:
    try:
        decoded = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(decoded, dict):
        return None
    return [list(facts.facts_of(kind, decoded)) for kind in ("Service", "Pod", "Node", "ConfigMap")]


def _tunnel(data: bytes) -> object:
    kinds = ("vxlan", "geneve", "gre", "ipip", "ip6tnl", "wireguard", "gtp", "amt", "bareudp", "pfcp")
    return [tunnels.tunnel_of("t", kind, data, up=True, elsewhere=False) for kind in kinds]


def _each_part(text: str) -> object:
    read: list[object] = []
    for part in query.PARTS:
        try:
            read.append(query.parse_url({part: [text]}, 0.0))
        except ValueError as error:
            read.append(error)
    return read


TARGETS: Sequence[Target] = (
    Target(
        "packet",
        headers.decode,
        [
            packets.tcp_syn(*V4, 80),
            packets.udp(*V6, 53, b"question"),
            packets.icmp(*V4, 3, 4, bytes(4)),
            packets.ip(*V6, 0, bytes(16)),
        ],
    ),
    Target("answer of an end", answers.answer_of, [packets.tcp_syn(*V4, 80), packets.tcp_syn(*V6, 80)]),
    Target("logged packet", nflog.decode, [_LOGGED]),
    Target("tracked connection", conntrack.tuple_of, [_TUPLE]),
    Target("netlink attributes", lambda data: list(attributes(data)), [_TUPLE, _LOGGED[4:]]),
    Target("tunnel", _tunnel, [_nested((15, struct.pack("!H", 4789)), (2, b"\x0a\1\0\2"))]),
    Target("FOU port", tunnels.fou_of, [_nested((1, b"\x15\xb3"), (2, b"\2"))]),
    Target("L2TP tunnel", tunnels.l2tp_of, [_nested((2, b"\0\0"), (26, b"\1\2"))]),
    Target("link", rtnetlink.link_of, [_LINK], (struct.error, KeyError)),
    Target(
        "set members",
        lambda data: [
            decode_members(kind, memoryview(data)) for kind in ("hash:ip", "hash:ip,port", "hash:net")
        ],
        [_nested((7, _nested((1, _nested((1, b"\x0a\1\0\2"))))))],
        (KeyError, ValueError, IndexError),
    ),
    Target("rule of an interface", nf_write.uncounted, [_FRAME_RULE]),
    Target("chain of an interface", nf_write.base_chain_of, [_FRAME_CHAIN]),
    Target(
        "senders of an interface",
        lambda data: frames.held_by({name: [data] for name in frames.SETS}),
        [nf_write.key(struct.pack("=I", 4), b"\2\0\0\0\0\1")],
    ),
    Target("iptables-save", _texts(tables.parse), [_SAVED]),
    Target("a rule of ours", _texts(_of_each_rule(parse.ours)), [_SAVED], (ValueError,)),
    Target("a rule of others", _texts(_of_each_rule(parse.foreign)), [_SAVED]),
    Target(
        "comment of a rule", _texts(_of_each_rule(comments.read_of_rule)), [b"1 of shop/a", b"pod shop/a"]
    ),
    Target("rule about frames, proved", lambda data: line(Rule("t", "c", 0, data)), [_FRAME_RULE]),
    Target("comment of a denial", _texts(_of_each_rule(comments.read_denies)), [b"pod shop/a: denied"]),
    Target("iptables -S", _texts(foreign._parse), [b"-P FORWARD DROP\n-N A\n-A A -j DROP\n"]),
    Target(
        "marks of a match",
        lambda data: [
            markuse.xt(name, 2, data) for name in ("mark", "MARK", "connmark", "CONNMARK", "TPROXY")
        ],
        [bytes(range(16))],
        (struct.error,),
    ),
    *(
        Target(
            f"list of {kind.value}",
            lambda data, kind=kind: wire.decode_page(kind, data),  # type: ignore[misc]
            [_whole_list(kind)],
            (msgspec.DecodeError,),
        )
        for kind in Kind
    ),
    *(
        Target(
            f"watch of {kind.value}",
            lambda data, kind=kind: proof.prove_lines(kind, data.split(b"\n"), 0),  # type: ignore[misc]
            [_line(kind)],
        )
        for kind in Kind
    ),
    Target("status of a request", wire.decode_status, [_json({"kind": "Status", "code": 410})]),
    Target(
        "policy in YAML",
        read_text,
        [_json(_POLICY), b"kind: Pod\nmetadata: {name: a}\n---\n- 1\n"],
        (UnreadableError,),
    ),
    Target(
        "policy in JSON", lambda data: read_text(data, is_json=True), [_json(_POLICY)], (UnreadableError,)
    ),
    Target("facts of a dump", _facts, [_json(_POD), _json(_NODE)]),
    Target("request of NRI", _nri_request, [_NRI_REQUEST], (MalformedError,)),
    Target(
        "bytes of NRI", _nri_bytes, [struct.pack(">IIIIBB", 1, 12, 2, 1, 1, 0) + b"ab"], (MalformedError,)
    ),
    Target("result of a network plugin", lambda data: result.decode(data, 1), [_RESULT]),
    Target("address", _texts(address.lenient_address), [b"::ffff:1.2.3.4", b"010.1.2.3"]),
    Target("network", _texts(address.lenient_network), [b"10.1.2.3/8", b"::ffff:1.2.3.4/100"]),
    Target("network of a manifest", _texts(address.strict_network), [b"10.0.0.0/8", b"fd00::/64"]),
    Target("annotation", _texts(lambda text: logging_of(text, text)), [b"all", b"sampled"]),
    Target(
        "question",
        _texts(lambda text: question_of(*([*text.split(" ", 2), "", ""])[:3])),
        [b"shop/web shop/api tcp/80", b"10.0.0.1 [fd00::1] udp/dns"],
        (QuestionError,),
    ),
    Target(
        "query of the history",
        _texts(_each_part),
        [b"shop/a", b"10m", b"5", b"2026-01-01T00:00:00Z"],
    ),
)
