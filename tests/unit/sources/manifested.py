"""Manifests as these tests write them, and what a source that reads them has told."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from agent.kube.events import UNKNOWN, Event, Origin, Upsert
from agent.kube.model import Key, Kind
from agent.sources.manifests.source import ManifestSource

POLICY = Kind.POLICY
A = Key("x", "a")
B = Key("x", "b")


def text(name: str, spec: str = "{podSelector: {}}") -> str:
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: x}}\nspec: {spec}\n"
    )


WIDER = "{podSelector: {}, ingress: [{}]}"
MISSPELT = "{podSelector: {}, ingress: [{port: []}]}"


class Heard:
    """A sink that remembers, and the source that fills it by hand, without threads.

    ``origins`` are what the events say of where their objects are written, which they are kept without.
    """

    def __init__(self, directory: Path, state: Path | None = None) -> None:
        self.events: list[Event] = []
        self.origins: list[Origin] = []
        self.source = ManifestSource(directory, state)
        self.source.load()

    def sink(self, events: Sequence[Event]) -> None:
        self.origins += [event.origin for event in events if isinstance(event, Upsert)]
        self.events += [e._replace(origin=UNKNOWN) if isinstance(e, Upsert) else e for e in events]

    def look(self) -> list[Event]:
        """Let the source look at the directory; return what it told about policies, and Synced."""
        self.events.clear()
        self.source.refresh(self.sink)
        return [e for e in self.events if e.kind is POLICY]

    @property
    def faults(self) -> tuple[str, ...]:
        return self.source.states()[POLICY].faults

    @property
    def synced(self) -> bool:
        return self.source.states()[POLICY].synced


def write(path: Path, content: str) -> None:
    """Replace a file as an editor does, so that its stamp always changes."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(content)
    temporary.replace(path)


def age(path: Path, seconds: float) -> None:
    """Have a file look as if it had been written so long ago; below 0: however late one looks, just now."""
    at = time.time() - seconds
    os.utime(path, (at, at))


JUST_NOW = -3600.0


def kinds(events: Sequence[Event]) -> list[type]:
    return [type(e) for e in events]
