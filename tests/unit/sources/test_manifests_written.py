"""Manifests that are being written while they are read, and how soon a change is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import NetworkPolicy
from agent.sources.manifests import source as source_of_manifests
from agent.sources.manifests import writing
from agent.sources.manifests.source import ManifestSource
from tests.patience import PATIENCE
from tests.unit.sources.manifested import (
    JUST_NOW,
    POLICY,
    WIDER,
    A,
    B,
    Heard,
    age,
    kinds,
    text,
    write,
)
from tests.unit.sources.scripted import wait


@pytest.fixture
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a source look at its directory only when it is told that something changed."""
    monkeypatch.setattr(source_of_manifests, "_LOOK_MS", 600_000)


class Asked(threading.Event):
    """Ends a watch when ``stop`` is set; it is set itself when it is asked: the kernel tells from then on."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def is_set(self) -> bool:
        self.set()
        return self._stop.is_set()


@pytest.fixture
def running(
    directory: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ManifestSource, list[Event]]]:
    """A source that watches its directory."""
    watches: list[Asked] = []
    plain = watchfiles.watch

    def watch(*paths: Path, stop_event: threading.Event, **options: Any) -> Any:
        watches.append(Asked(stop_event))
        return plain(*paths, stop_event=watches[-1], **options)

    monkeypatch.setattr(watchfiles, "watch", watch)
    events: list[Event] = []
    source = ManifestSource(directory, state)
    source.start(events.extend)
    wait(lambda: bool(watches))
    assert watches[0].wait(PATIENCE)
    yield source, events
    source.stop()
    wait(lambda: not any(source.threads().values()))


BLOCKS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: x}
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector: {}
    ports:
    - port: 80
---
"""


def test_a_file_being_written_in_place_is_read_when_its_writer_is_done(directory: Path, state: Path) -> None:
    write(directory / "a.yaml", BLOCKS + text("b"))
    heard = Heard(directory, state)
    before = [e for e in heard.look() if isinstance(e, Upsert)]
    assert len(before) == 2
    cut = BLOCKS.index("    - port: 80")
    with (directory / "a.yaml").open("w") as file:
        file.write(BLOCKS[:cut])
        file.flush()
        # However long the writer pauses.
        age(directory / "a.yaml", 3600)
        assert heard.look() == []
        assert [e for e in Heard(directory, state).look() if isinstance(e, Upsert)] == before
        file.write(BLOCKS[cut:])
    assert heard.look() == [Delete(POLICY, B)]
    with (directory / "a.yaml").open("a") as file:
        file.write(text("b", WIDER))
    assert kinds(heard.look()) == [Upsert]


def test_a_new_file_being_written_keeps_the_source_waiting_and_says_why(directory: Path) -> None:
    with (directory / "a.yaml").open("w") as file:
        file.write(BLOCKS)
        file.flush()
        heard = Heard(directory)
        assert heard.look() == []
        assert not heard.synced
        assert "a.yaml: not read yet: a program has it open for writing" in heard.faults[0]
        file.write(text("b"))
    assert kinds(heard.look()) == [Upsert, Upsert, Synced]
    assert not heard.faults


def test_where_the_kernel_cannot_tell_of_writers_quiet_has_to_do(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_is_local", lambda _: False)
    (directory / "a.yaml").write_text(text("a"))
    age(directory / "a.yaml", JUST_NOW)
    heard = Heard(directory)
    assert heard.look() == []
    age(directory / "a.yaml", 1.1)
    assert kinds(heard.look()) == [Upsert, Synced]


def test_a_clock_that_is_wrong_holds_nothing_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_is_local", lambda _: False)
    (directory / "a.yaml").write_text(text("a"))
    age(directory / "a.yaml", -86400)
    heard = Heard(directory)
    assert heard.look() == []
    time.sleep(1.05)
    assert kinds(heard.look()) == [Upsert, Synced]


def test_a_broken_off_last_line_is_waited_for_unless_the_file_was_replaced(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory)
    heard.look()
    (directory / "a.yaml").write_text(text("a", WIDER).rstrip())
    age(directory / "a.yaml", JUST_NOW)
    assert heard.look() == []
    age(directory / "a.yaml", 6)
    assert kinds(heard.look()) == [Upsert]
    write(directory / "a.yaml", text("a").rstrip())
    assert kinds(heard.look()) == [Upsert]


@pytest.mark.usefixtures("never_looks")
def test_the_end_of_a_slow_write_is_told_soon_and_nothing_before_it(
    directory: Path, running: tuple[ManifestSource, list[Event]]
) -> None:
    _, events = running
    cut = BLOCKS.index("    - port: 80")
    with (directory / "a.yaml").open("w") as file:
        file.write(BLOCKS[:cut])
        file.flush()
        time.sleep(1.5)
        assert not [e for e in events if isinstance(e, Upsert)]
        file.write(BLOCKS[cut:])
    wait(lambda: any(e.kind is POLICY and isinstance(e, Upsert) for e in events))
    (policy,) = [e.object for e in events if isinstance(e, Upsert) and isinstance(e.object, NetworkPolicy)]
    assert policy.ingress
    assert policy.ingress[0].ports


def test_a_writer_that_comes_while_a_file_is_read_waits_and_the_process_lives(directory: Path) -> None:
    path = directory / "a.yaml"
    path.write_text(text("a"))
    opened = threading.Event()

    def overwrite() -> None:
        with path.open("w"):
            opened.set()

    writer = threading.Thread(target=overwrite)
    with path.open() as file, writing.unwritten(file.fileno(), 0.0):
        writer.start()
        assert not opened.wait(0.2)
        assert file.read() == text("a")
    assert opened.wait(PATIENCE)
    writer.join()


@pytest.mark.usefixtures("never_looks")
def test_a_change_is_told_soon(directory: Path, running: tuple[ManifestSource, list[Event]]) -> None:
    _, events = running
    (directory / "a.yaml").write_text(text("a"))
    wait(lambda: any(e.kind is POLICY and isinstance(e, Upsert) for e in events))
    (directory / "a.yaml").unlink()
    wait(lambda: Delete(POLICY, A) in events)


def test_a_directory_replaced_by_another_is_followed(
    directory: Path, running: tuple[ManifestSource, list[Event]]
) -> None:
    source, events = running
    wait(lambda: source.states()[POLICY].synced)
    directory.rmdir()
    wait(lambda: source.states()[POLICY].fault != "")
    directory.mkdir()
    (directory / "a.yaml").write_text(text("a"))
    wait(lambda: any(e.kind is POLICY and isinstance(e, Upsert) for e in events))
    wait(lambda: source.states()[POLICY].fault == "")
