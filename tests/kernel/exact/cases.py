"""Named cases: manifests that were judged wrongly once, or easily could be, with what must become of packets.

A case is a file of ``cases/``. It has one or more states, each begun by a line ``# state: what changed``;
a state is a whole cluster's manifests, and for each packet a line ``# allowed: SOURCE DESTINATION
PORT/PROTOCOL`` or ``# denied: …``, with addresses that the arena has. A disagreement is printed in this form.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from agent.kube.model import Object
from agent.spec.question import question_of
from agent.spec.verdict import Packet
from tests.lab.reading import read_manifests

DIRECTORY = Path(__file__).with_name("cases")

_STATE = re.compile(r"^# state:.*$", re.MULTILINE)
_LINE = re.compile(r"^# (allowed|denied): (\S+) (\S+) (\S+)$", re.MULTILINE)


class State(NamedTuple):
    """A cluster, and for each packet whether it passes."""

    objects: tuple[Object, ...]
    expected: dict[Packet, bool]


def states(path: Path) -> list[State]:
    """Read a case. Raises AssertionError when it holds what is refused, or nothing to try."""
    _, *texts = _STATE.split(path.read_text())
    assert texts, f"{path}: no line begins with '# state:'"
    return [_state(path, text) for text in texts]


def _state(path: Path, text: str) -> State:
    expected = {
        _packet(*words): outcome == "allowed"
        for outcome, *words in (m.groups() for m in _LINE.finditer(text))
    }
    assert expected, f"{path}: a state says of no packet what becomes of it"
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "cluster.yaml").write_text(text)
        objects, refused = read_manifests(Path(directory))
    assert not refused, refused
    return State(objects, expected)


def _packet(source: str, destination: str, service: str) -> Packet:
    asked = question_of(source, destination, service)
    ends = asked.source, asked.destination
    assert isinstance(asked.service.port, int)
    one, other = (end for end in ends if isinstance(end, bytes))
    return Packet(one, other, int(asked.service.protocol), asked.service.port)
