"""NRI's messages, as far as they are used (containerd/nri, pkg/api/api.proto), and ttrpc's around them."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube.model import Key
from agent.sources.cni.result import first_of_each
from agent.sources.nri.protobuf import bytes_field, embedded, fields, number_field, text, whole

RUNTIME, PLUGIN = "nri.pkg.api.v1alpha1.Runtime", "nri.pkg.api.v1alpha1.Plugin"
RUN_POD_SANDBOX, STOP_POD_SANDBOX = 1, 2
"""Of the enumeration Event."""
UNIMPLEMENTED = 12
"""Of the codes of google.rpc.Status."""


class Call(NamedTuple):
    """A request of ttrpc. ``seconds``: how long the other side waits; 0.0 where it does not say."""

    service: str
    method: str
    payload: bytes
    seconds: float


class Configuration(NamedTuple):
    """What a runtime says of itself, and how many seconds a request may take; 0.0 where it does not say."""

    runtime: str
    version: str
    seconds: float


class Sandbox(NamedTuple):
    """A pod's sandbox. ``addresses`` are packed, none where the runtime does not tell them.

    ``static``: the pod is of a file of this node, and the API server knows it by another uid.
    """

    id: str
    pod: Key
    uid: str
    addresses: tuple[bytes, ...]
    static: bool = False


def call_of(message: bytes) -> Call:
    """Read a request. Raises MalformedError."""
    service = method = ""
    payload, nanoseconds = b"", 0
    for number, value in fields(message):
        if number == 1:
            service = text(value)
        elif number == 2:
            method = text(value)
        elif number == 3:
            payload = embedded(value)
        elif number == 4:
            nanoseconds = whole(value)
    return Call(service, method, payload, nanoseconds / 1e9)


def call(service: str, method: str, payload: bytes, seconds: float) -> bytes:
    """Encode a request."""
    return (
        bytes_field(1, service.encode())
        + bytes_field(2, method.encode())
        + bytes_field(3, payload)
        + number_field(4, round(seconds * 1e9))
    )


def answer(payload: bytes) -> bytes:
    """Encode a response that is well."""
    return bytes_field(2, payload)


def refusal(code: int, why: str) -> bytes:
    """Encode a response that says why there is none."""
    return bytes_field(1, number_field(1, code) + bytes_field(2, why.encode()))


def refused(message: bytes) -> str:
    """Return why a response refuses, "" where it does not. Raises MalformedError."""
    status = next((embedded(value) for number, value in fields(message) if number == 1), b"")
    code, why = 0, ""
    for number, value in fields(status):
        if number == 1:
            code = whole(value)
        elif number == 2:
            why = text(value)
    return (why or f"code {code}") if code else ""


def registration(name: str, index: str) -> bytes:
    """Encode RegisterPluginRequest."""
    return bytes_field(1, name.encode()) + bytes_field(2, index.encode())


def configuration_of(message: bytes) -> Configuration:
    """Read ConfigureRequest. Raises MalformedError."""
    runtime = version = ""
    milliseconds = 0
    for number, value in fields(message):
        if number == 2:
            runtime = text(value)
        elif number == 3:
            version = text(value)
        elif number == 5:
            milliseconds = whole(value)
    return Configuration(runtime, version, milliseconds / 1000)


def subscription() -> bytes:
    """Encode ConfigureResponse: which events are wanted, and to stay registered after an answer too late."""
    events = 1 << RUN_POD_SANDBOX - 1 | 1 << STOP_POD_SANDBOX - 1
    keep_connected = number_field(2, 1)
    return number_field(2, events) + bytes_field(3, keep_connected)


def has_more(message: bytes) -> bool:
    """Whether a SynchronizeRequest is one of several. Raises MalformedError."""
    return any(number == 3 and bool(whole(value)) for number, value in fields(message))


def sandbox_of(message: bytes) -> Sandbox | None:
    """Read RunPodSandboxRequest, StopPodSandboxRequest, or the like. Raises MalformedError."""
    found = next((embedded(value) for number, value in fields(message) if number == 1), None)
    return None if found is None else _sandbox(found)


def state_change_of(message: bytes) -> tuple[int, Sandbox | None]:
    """Read StateChangeEvent, by which older runtimes tell of sandboxes. Raises MalformedError."""
    event, sandbox = 0, None
    for number, value in fields(message):
        if number == 1:
            event = whole(value)
        elif number == 2:
            sandbox = _sandbox(embedded(value))
    return event, sandbox


def _sandbox(message: bytes) -> Sandbox:
    names = {1: "", 2: "", 3: "", 4: ""}
    ips: list[str] = []
    static = False
    for number, value in fields(message):
        if number in names:
            names[number] = text(value)
        elif number == 6:
            static = static or _is_static(embedded(value))
        elif number == 10:
            ips.append(text(value))
    return Sandbox(names[1], Key(names[4], names[2]), names[3], first_of_each(ips), static)


def _is_static(entry: bytes) -> bool:
    """Whether an annotation says that kubelet has the pod from a file or a URL (``config.source``)."""
    found = dict(fields(entry))
    return found.get(1) == b"kubernetes.io/config.source" and found.get(2) != b"api"
