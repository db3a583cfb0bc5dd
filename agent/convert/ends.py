"""The ends of what a line allows: pods of a namespace, pods of namespaces, blocks; and its ports."""

from __future__ import annotations

import re

from agent.convert.selectors import read_selector, write_selector
from agent.convert.statement import of_namespace, one
from agent.convert.words import LineError, Word
from agent.kube import names
from agent.kube.address import covers, strict_network
from agent.kube.model import IPBlock, Operator, Peer, Port, Selector
from agent.kube.validate import METADATA_NAME
from agent.net import Network, Protocol

_PODS = "write pods as NAMESPACE/NAME, NAMESPACE/* or NAMESPACE/{LABELS}"
_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def read_subject(word: Word, label: str, *, bare: bool = False) -> tuple[str, Selector]:
    """Read the pods that a policy is for: their namespace, and which of it. ``bare``: it may stand alone."""
    text = word.text
    if not text or text in (",", ";"):
        raise LineError(word, f"the pods that it is for are missing; {_PODS}")
    namespace, slash, pods = _parted(text)
    if not slash and not bare:
        raise LineError(word, f"whether it is a namespace or a pod cannot be told; {_PODS}")
    if namespace == "*" or namespace.startswith("{"):
        raise LineError(word, "a policy is for pods of one namespace; write a line for each, with its name")
    if wrong := names.dns_label(namespace):
        raise LineError(word, f"its namespace is wrong: {wrong}")
    return namespace, _pods(Word(pods, word.column + len(namespace) + 1), label) if slash else Selector()


def read_peer(word: Word, namespace: str, label: str) -> Peer:
    """Read a peer of a policy of a namespace."""
    text = word.text
    head, slash, pods = _parted(text)
    if "|" in text or (slash and not head.startswith("{") and ("." in head or ":" in head)):
        return Peer(block=_block(word))
    if not slash:
        alone = f"{text}/{128 if ':' in text else 32}"
        remedy = f"write {alone}" if isinstance(strict_network(alone), Network) else f"{_PODS}, or a block"
        raise LineError(word, f"is no peer; {remedy}")
    selector = _pods(Word(pods, word.column + len(head) + 1), label)
    if head == "*":
        return Peer(selector if selector.requirements else None, Selector())
    if head.startswith("{"):
        namespaces = read_selector(Word(head, word.column))
        return Peer(selector if selector.requirements else None, namespaces)
    if wrong := names.dns_label(head):
        raise LineError(word, f"its namespace is wrong: {wrong}")
    if head == namespace:
        return Peer(selector)
    return Peer(selector if selector.requirements else None, of_namespace(head))


def _parted(text: str) -> tuple[str, str, str]:
    """Part a word at the slash after its namespace: labels have slashes of their own."""
    if text.startswith("{"):
        end = text.find("}") + 1
        return text[:end], text[end : end + 1], text[end + 1 :]
    return text.partition("/")


def _pods(word: Word, label: str) -> Selector:
    text = word.text
    if text == "*":
        return Selector()
    if text.startswith("{") and text.endswith("}"):
        return read_selector(word)
    if not text:
        raise LineError(word, f"a name is missing after the slash; {_PODS}")
    if wrong := names.label_value(text):
        raise LineError(word, wrong)
    return one(label, text)


def _block(word: Word) -> IPBlock:
    text, _, excepts = word.text.partition("|")
    cidr = _network(Word(text, word.column))
    found, at = [], word.column + len(text) + 1
    for inner in excepts.split(",") if "|" in word.text else ():
        part = Word(inner, at)
        network = _network(part)
        if not (covers(cidr, network) and cidr.prefix < network.prefix):
            raise LineError(
                part,
                f"is not strictly inside {cidr}; put a space before it if it is another peer, or remove it",
            )
        found.append(network)
        at += len(inner) + 1
    return IPBlock(cidr, tuple(sorted(set(found))))


def _network(word: Word) -> Network:
    network = strict_network(word.text)
    if isinstance(network, str):
        raise LineError(word, network)
    return network


def write_pods(selector: Selector, label: str) -> str:
    """Return which pods of a namespace a selector means."""
    if not selector.requirements:
        return "*"
    if len(selector.requirements) == 1:
        key, operator, values = selector.requirements[0]
        if key == label and operator is Operator.IN and len(values) == 1 and values[0]:
            return values[0]
    return write_selector(selector)


def write_peer(peer: Peer, namespace: str, label: str) -> str:
    """Return a peer of a policy of a namespace as a word."""
    if peer.block is not None:
        excepts = ",".join(map(str, peer.block.excepts))
        return f"{peer.block.cidr}|{excepts}" if excepts else str(peer.block.cidr)
    pods = write_pods(peer.pod_selector or Selector(), label)
    selector = peer.namespace_selector
    if selector is None:
        return f"{namespace}/{pods}"
    if not selector.requirements:
        return f"*/{pods}"
    key, operator, values = selector.requirements[0]
    by_name = len(selector.requirements) == 1 and (key, operator) == (METADATA_NAME, Operator.IN)
    if by_name and len(values) == 1 and values[0] != namespace:
        return f"{values[0]}/{pods}"
    return f"{write_selector(selector)}/{pods}"


def read_port(word: Word) -> Port:
    """Read a port: ``tcp/8080``, ``udp/5000-5100``, ``tcp/http``, ``sctp``; without a protocol TCP's."""
    first, slash, rest = word.text.partition("/")
    protocol = _PROTOCOLS.get(first.lower())
    if protocol is not None and not slash:
        return Port(protocol)
    if slash and protocol is None:
        turned = _PROTOCOLS.get(rest.lower())
        remedy = f"write {rest.lower()}/{first}" if turned else "write tcp, udp or sctp before the slash"
        raise LineError(word, f"has no protocol before its slash; {remedy}")
    text = rest if slash else first
    protocol = protocol or Protocol.TCP
    numbers = _RANGE.fullmatch(text)
    if numbers is None:
        if wrong := names.port_name(text):
            raise LineError(word, f"{wrong}; a port is a number, a range such as 8000-8100, or a name")
        return Port(protocol, text)
    begin, end = (int(n[:9]) if n is not None else None for n in numbers.groups())
    assert begin is not None  # noqa: S101 - the pattern has it
    for number in (begin, end):
        if number is not None and (wrong := names.port_number(number)):
            raise LineError(word, wrong)
    if end is not None and end < begin:
        raise LineError(word, f"{end} is less than {begin}; exchange the two")
    return Port(protocol, begin, end)


def write_port(port: Port) -> str:
    """Return a port as a word."""
    protocol = port.protocol.name.lower()
    if port.port is None:
        return protocol
    return f"{protocol}/{port.port}" + ("" if port.end is None else f"-{port.end}")
