"""Manifests read once, with no history: what ``explain`` and ``render`` are asked about.

A directory, a file, several of them, or standard input. Objects that a server has stored are read as
leniently as from that server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.kube.documents import NOT_APPLIED, is_kustomization
from agent.kube.events import Problem
from agent.kube.facts import Fact, is_fact
from agent.kube.kinds import is_policy
from agent.kube.manifest import Manifest, Reading, read_text
from agent.kube.model import Kind, Object
from agent.kube.text import UnreadableError
from agent.kube.workloads import Workload, is_workload
from agent.sources.manifests.desired import DesiredObjects, Held, combine, values
from agent.sources.manifests.directory import SUFFIXES, read_bytes, scan, shown

STANDARD_INPUT = Path("-")

_LENIENT_NOTES = 5
"""Notes about single policies that are written; the rest are counted."""


class Unread(NamedTuple):
    """A file or directory that could not be read whole, and why, with the remedy."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


class Read(NamedTuple):
    """What was read. ``notes`` are lines about what was not refused; ``facts`` are what other objects say.

    ``manifests`` are all objects as they are written, by the name of their file, and ``workloads`` all
    workloads: an agent enforces nothing for a template.
    """

    desired: DesiredObjects
    unread: tuple[Unread, ...]
    notes: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    manifests: tuple[tuple[str, Manifest], ...] = ()
    workloads: tuple[tuple[str, Workload], ...] = ()

    @property
    def objects(self) -> tuple[Object, ...]:
        """The objects that an agent would enforce, in a fixed order.

        Namespaces are implied; an invalid policy, where its podSelector can be read, isolates and allows
        nothing.
        """
        return values(self.desired.objects)

    @property
    def refused(self) -> tuple[str, ...]:
        """A line for each file and each object that was refused."""
        return (*map(str, self.unread), *self.desired.lines)


class Text(NamedTuple):
    """One file as it is, or standard input. ``name`` is what it is called in messages."""

    name: str
    path: Path
    text: bytes

    @property
    def is_json(self) -> bool:
        return self.path.suffix == ".json"

    @property
    def base(self) -> str:
        """The name by which a file of a tool is known; empty for standard input."""
        return "" if self.path == STANDARD_INPUT else self.path.name


class Texts(NamedTuple):
    """The files of some places."""

    texts: tuple[Text, ...]
    unread: tuple[Unread, ...]
    notes: tuple[str, ...]


def read_texts(places: Sequence[Path]) -> Texts:
    """Read the texts of directories and files, or of standard input for ``-``, each file once."""
    texts: list[Text] = []
    unread: list[Unread] = []
    notes: list[str] = []
    seen: set[str] = set()
    for place in places:
        for name, path in _files(place, len(places) == 1, unread, notes):
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            try:
                texts.append(Text(name, path, _text(path, named=path == place)))
            except UnreadableError as error:
                unread.append(Unread(name, str(error)))
    return Texts(tuple(texts), tuple(unread), tuple(notes))


def read_once(places: Sequence[Path], *, workloads: bool = False) -> Read:
    """Read directories and files, or standard input for ``-``. Never raises for what is in them.

    ``workloads``: the reader looks at workloads, too, so no note says that they are passed over.
    """
    found = read_texts(places)
    unread = [*found.unread]
    readings: dict[str, Reading] = {}
    for one in found.texts:
        try:
            readings[one.name] = read_text(one.text, is_json=one.is_json, name=one.base, dump=True)
        except UnreadableError as error:
            unread.append(Unread(one.name, str(error)))
    return _combined(readings, unread, found.notes, workloads=workloads)


def read_given(name: str, text: bytes, *, workloads: bool = False) -> Read:
    """Read one text, called so in messages, as :func:`read_once` does."""
    try:
        return _combined({name: read_text(text, dump=True)}, [], [], workloads=workloads)
    except UnreadableError as error:
        return _combined({}, [Unread(name, str(error))], [], workloads=workloads)


def _combined(
    readings: dict[str, Reading], unread: Sequence[Unread], notes: Sequence[str], *, workloads: bool
) -> Read:
    desired = combine({name: Held(reading.manifests, {}) for name, reading in readings.items()})
    facts = tuple(fact for name in sorted(readings) for fact in readings[name].facts)
    manifests = tuple((name, one) for name in sorted(readings) for one in readings[name].manifests)
    made = tuple((name, one) for name in sorted(readings) for one in readings[name].workloads)
    told = (*notes, *_notes(readings, workloads=workloads))
    return Read(desired, tuple(unread), told, facts, manifests, made)


def _files(place: Path, alone: bool, unread: list[Unread], notes: list[str]) -> Iterator[tuple[str, Path]]:
    """Give the files of a place, each with what it is called in messages."""
    if place == STANDARD_INPUT:
        yield "standard input", place
        return
    if not os.path.lexists(place):
        unread.append(Unread(shown(str(place)), "no such file or directory; correct the path"))
        return
    if not place.is_dir():
        yield shown(str(place)), place
        return
    try:
        found = scan(place)
    except OSError as error:
        unread.append(Unread(shown(str(place)), f"{error.strerror}; name a directory that can be listed"))
        return
    for folder, fault in zip(map(shown, found.hidden), found.faults, strict=True):
        unread.append(Unread(folder, fault.removeprefix(f"{folder}: ")))
    if not found.files and not found.faults:
        notes.append(f"{shown(str(place))} holds no manifests: no file in it ends in {', '.join(SUFFIXES)}")
    for path in sorted(found.files):
        yield shown(path if alone else str(place / path)), place / path


def _text(path: Path, *, named: bool) -> bytes:
    """Read standard input, what comes through a pipe such as a shell makes of ``<(...)``, or a file.

    ``named``: somebody gave this path. A pipe that only lies in a directory may have no writer, ever.
    """
    if path != STANDARD_INPUT and not (named and path.is_fifo()):
        return read_bytes(path)
    try:
        if path != STANDARD_INPUT:
            text = path.read_bytes()
        else:
            # None where whoever started the command has closed it.
            text = b"" if sys.stdin is None else sys.stdin.buffer.read()
    except OSError as error:
        raise UnreadableError(f"{error.strerror}; give the objects to the command's input") from None
    if not text.strip():
        raise UnreadableError("nothing came; give it objects: kubectl get ... -o yaml | netpol-agent ...")
    return text


def _notes(readings: dict[str, Reading], *, workloads: bool) -> Iterator[str]:
    """Say what was passed over, and which policies a server has that a create would refuse."""
    ignored = {text for reading in readings.values() for text in reading.ignored}
    if workloads:
        ignored = {text for text in ignored if not is_workload(text)}
    policies = sorted(filter(is_policy, ignored))
    kustomize = sorted(filter(is_kustomization, ignored))
    others = sorted(text for text in ignored.difference(policies, kustomize) if not is_fact(text))
    if kustomize:
        yield (
            f"{', '.join(kustomize)} is not applied: {NOT_APPLIED}; to read its result: "
            "kubectl kustomize DIR | netpol-agent ... --manifests -"
        )
    if others:
        yield f"passed over, since no policy depends on it: {', '.join(others)}"
    if policies:
        yield f"policies of another product, not enforced by this agent: {', '.join(policies)}"
    lenient = [
        f"{name}: NetworkPolicy {found.key}: read as its server reads it; as a manifest it would be refused: "
        + _problem(found.problems[0])
        for name, reading in sorted(readings.items())
        for found in reading.manifests
        if found.stored and found.kind is Kind.POLICY and found.value is not None
    ]
    yield from lenient[:_LENIENT_NOTES]
    if len(lenient) > _LENIENT_NOTES:
        yield f"the same holds of {len(lenient) - _LENIENT_NOTES} more"


def _problem(problem: Problem) -> str:
    return f"{problem.field}: {problem.message}" if problem.field else problem.message
