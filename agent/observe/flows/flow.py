"""One connection that the rules have denied or allowed, as a value: what ``/flows`` and the log show."""

from __future__ import annotations

import datetime

import msgspec

from agent.clock import Moment
from agent.dataplane.logged import Decided
from agent.decoding import decode
from agent.net import Direction
from agent.words import count


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """One end of a connection. ``pod`` is ``namespace/name``; empty where the address is no pod's.

    ``port`` is None where the protocol has none. ``node`` is the node of the pod, or the one whose address it
    is. ``service``, ``namespace/name``, has the address as its ClusterIP, as far as it is known. ``uid`` is
    the pod's. ``workload`` is what controls the pod, as ``Kind/name``.
    """

    address: str
    port: int | None = None
    pod: str = ""
    namespace: str = ""
    node: str = ""
    uid: str = ""
    workload: str = ""
    service: str = ""

    def __str__(self) -> str:
        of = f"{self.workload}, " if self.workload else ""
        who = f"{self.pod} ({of}{self.address})" if self.pod else self.address
        if not self.pod and (self.node or self.service):
            who = f"Service {self.service}" if self.service else f"node {self.node}"
            who += f" ({self.address})"
        return who if self.port is None else f"{who} port {self.port}"


class Nearest(msgspec.Struct, frozen=True):
    """The rule that came nearest to allowing a connection.

    ``peer`` and ``port`` say which of the two matched, ``why`` why the other did not. ``rule`` counts the
    policy's rules of the direction from 0.
    """

    policy: str
    rule: int
    peer: bool
    port: bool
    why: str


class Flow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Packets of one kind: of one verdict and direction, between the same addresses, to the same port.

    ``number`` is that of the first report; a later report of the same kind says how many more packets there
    were (``count``), between ``first`` and ``last``. ``pod`` is the pod that was judged, empty where the
    address is no pod's any more. ``why`` is one line for people. ``policies`` isolate the pod in the
    direction; for an allowed connection, ``rules`` are those that allow it, as ``policy[number]``.
    ``service`` is what the source has asked for, where that was translated. ``icmp`` is type and code.
    ``notes`` say what else is odd about the packet.
    """

    number: int
    first: Moment
    last: Moment
    verdict: Decided
    direction: Direction
    pod: str
    protocol: str
    source: End
    destination: End
    why: str
    count: int = 1
    policies: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    nearest: Nearest | None = None
    service: End | None = None
    icmp: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def repeated(self) -> bool:
        """Whether it tells of more packets of a kind that has been told."""
        return self.first != self.last or self.count > 1


REASONS = {
    "more than --log-rate allows": "limit",
    "they came faster than they were read": "not_read",
    "they cannot be read": "unreadable",
    "there are too many different ones": "too_many",
}
"""Why packets were not logged, as :class:`Unlogged` says it, and the word for it in metrics."""


class Unlogged(msgspec.Struct, frozen=True, omit_defaults=True):
    """Packets that were not logged: how many, of which pod's direction (empty: of any), and why."""

    at: Moment
    packets: int
    why: str
    pod: str = ""
    direction: Direction | None = None


Report = Flow | Unlogged
"""What is told."""

_ENCODER = msgspec.json.Encoder()


def as_json(report: Report) -> bytes:
    """Return a report as one line of JSON, without its end. ``event`` says which of the two it is."""
    kind = b'{"event":"connection",' if isinstance(report, Flow) else b'{"event":"not logged",'
    return kind + _ENCODER.encode(report)[1:]


_KINDS: dict[str, type[Flow] | type[Unlogged]] = {"connection": Flow, "not logged": Unlogged}


class _Event(msgspec.Struct):
    event: str = ""


def from_json(line: bytes) -> Report | None:
    """Return the report that a line holds; None where it is of a kind not known here.

    Raises :class:`agent.decoding.UndecodableError`.
    """
    kind = _KINDS.get(decode(line, _Event).event)
    return decode(line, kind) if kind is not None else None


def as_text(report: Report) -> str:
    """Return a report as one line for people."""
    if isinstance(report, Unlogged):
        whose = f" of {report.direction} of {report.pod}" if report.pod else ""
        return f"{_time(report.at)} not logged: {count(report.packets, 'packet')}{whose}, {report.why}"
    protocol = report.protocol
    if report.icmp is not None:
        protocol += f" type {report.icmp[0]} code {report.icmp[1]}"
    asked = f", asked for {report.service}" if report.service is not None else ""
    times = f" ({count(report.count, 'packet')} since {_time(report.first)})" if report.repeated else ""
    notes = "".join(f"; {note}" for note in report.notes)
    return (
        f"{_time(report.last)} {report.verdict} {report.direction} {protocol} {_plain(report.source)} to "
        f"{report.destination}{asked}{times}: {report.why}{notes}"
    )


def _plain(end: End) -> End:
    """Return an end without its port: the source's is any."""
    return msgspec.structs.replace(end, port=None)


def _time(moment: Moment) -> str:
    return moment.astimezone(datetime.UTC).strftime("%H:%M:%S")
