"""A question as it is written on the command line: whether SRC may open a connection to a port of DST."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from agent.kube import names
from agent.kube.address import strict_address
from agent.kube.model import Key
from agent.net import Protocol
from agent.spec.evaluator import Endpoint

_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}

KINDS = {
    word: kind
    for kind, words in {
        "CronJob": "cj cronjob cronjobs cronjob.batch cronjobs.batch",
        "DaemonSet": "ds daemonset daemonsets daemonset.apps daemonsets.apps",
        "Deployment": "deploy deployment deployments deployment.apps deployments.apps",
        "Job": "job jobs job.batch jobs.batch",
        "Node": "no node nodes",
        "Pod": "po pod pods",
        "ReplicaSet": "rs replicaset replicasets replicaset.apps replicasets.apps",
        "ReplicationController": "rc replicationcontroller replicationcontrollers",
        "Service": "svc service services",
        "StatefulSet": "sts statefulset statefulsets statefulset.apps statefulsets.apps",
    }.items()
    for word in words.split()
}
"""What kubectl calls kinds that pods are of, on or behind."""

_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)+")
"""An address, or one that was meant: a pod that is called so needs its namespace written."""


class QuestionError(Exception):
    """A question that cannot be understood; its message says why, and how to ask it."""


class Service(NamedTuple):
    """What is asked for at the destination: a port by its number, or by its name there."""

    protocol: Protocol
    port: int | str


class Question(NamedTuple):
    """Whether ``source`` may open a connection to a port of ``destination``."""

    source: Endpoint
    destination: Endpoint
    service: Service


def question_of(source: str, destination: str, service: str) -> Question:
    """Read a question as it is written on the command line; raises QuestionError."""
    return Question(_endpoint(source), _endpoint(destination), _service(service))


def _endpoint(text: str) -> Endpoint:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id is not None:
                raise QuestionError(f"{text!r} has a zone; write the address alone")
            address = address.ipv4_mapped or address
        return address.packed
    if _NUMBERS.fullmatch(text):
        raise QuestionError(str(strict_address(text)))
    namespace, slash, name = text.rpartition("/")
    outer, _, kind = namespace.rpartition("/")
    if outer.lower() in KINDS and kind.lower() not in KINDS:
        outer, kind = kind, outer
    word = kind.lower()
    # A word that may be a namespace is one, as long as it stands alone.
    is_kind = word in KINDS and bool(outer or names.dns_label(kind))
    if is_kind and not (outer and names.dns_label(outer)) and not names.dns_subdomain(name):
        # No pod is called so: what to ask instead is said when the pods are known.
        return Key(outer, f"{word}/{name}")
    key = Key(namespace if slash else "default", name)
    wrong = names.dns_label(key.namespace) or names.dns_subdomain(key.name)
    if wrong:
        if remedy := _no_pod(text):
            raise QuestionError(f"{text!r} {remedy}")
        raise QuestionError(
            f"{text!r} is neither namespace/pod, a pod of the namespace default, nor an address: {wrong}"
        )
    return key


def _no_pod(text: str) -> str:
    """Say what a text is that is no pod and no address, as far as that can be seen."""
    if "://" in text:
        return "is a URL; write namespace/pod or an address, and the port as an argument of its own"
    try:
        block = ipaddress.ip_network(text, strict=False)
    except ValueError:
        pass
    else:
        return f"is a block; ask about one address in it, such as {block[min(1, block.num_addresses - 1)]}"
    address, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(address.strip("[]") if port.isdecimal() else text.strip("[]"))
    except ValueError:
        has_port = port.isdecimal() or (text.count("/") == 2 and text.rpartition("/")[2].isdecimal())
        if has_port:
            return "has a port; write namespace/pod alone, and the port as an argument of its own"
        return ""
    return "is an address and more; write the address alone, and the port as an argument of its own"


def _service(text: str) -> Service:
    port, slash, named = text.partition("/")
    protocol = _PROTOCOLS.get(named.lower()) if slash else Protocol.TCP
    if protocol is None:
        raise QuestionError(f"{named!r} is no protocol; write tcp, udp or sctp, as in 53/udp")
    if not (port.isascii() and port.isdecimal()):
        first, dash, last = port.partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            raise QuestionError(f"{port!r} is a range; ask about one port in it, such as {first}")
        wrong = names.port_name(port)
        if wrong:
            raise QuestionError(f"{port!r} is no port: write a number, or a port's name on the pod; {wrong}")
        return Service(protocol, port)
    number = int(port) if len(port) < 10 else 0
    if names.port_number(number):
        raise QuestionError(f"{port} is no port number; write one from 1 to 65535")
    return Service(protocol, number)
