"""A directory of manifests: what is read, what is kept when it cannot be, and what is told."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.kube.events import UNKNOWN, Delete, Event, Invalid, Origin, Synced, Upsert
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Selector
from agent.sources.manifests import source as source_of_manifests
from agent.sources.manifests import writing
from agent.sources.manifests.lastgood import LastGood
from agent.sources.manifests.source import ManifestSource
from tests.lab.reading import read_manifests

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


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "manifests"
    found.mkdir()
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def write(path: Path, content: str) -> None:
    """Replace a file as an editor does, so that its stamp always changes."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(content)
    temporary.replace(path)


def kinds(events: Sequence[Event]) -> list[type]:
    return [type(e) for e in events]


def test_objects_are_told_then_synced_then_only_changes(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory)
    assert heard.look() == [Upsert(POLICY, NetworkPolicy("x", "a", ingress=())), Synced(POLICY)]
    assert heard.look() == []
    write(directory / "b.yml", text("b"))
    assert [e.object.name for e in heard.look() if isinstance(e, Upsert)] == ["b"]
    write(directory / "a.yaml", "# nothing\n")
    assert heard.look() == [Delete(POLICY, A)]
    (directory / "b.yml").unlink()
    assert heard.look() == [Delete(POLICY, B)]


def test_where_an_object_is_written_is_told_with_it(directory: Path) -> None:
    heard = Heard(directory)
    write(directory / "a.yaml", text("a"))
    heard.look()
    assert heard.origins == [UNKNOWN, Origin("a.yaml line 1")], "the namespace is implied"


def test_namespaces_in_use_are_implied_and_go_with_their_last_object(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory)
    heard.look()
    implied = Namespace("x", {"kubernetes.io/metadata.name": "x"})
    assert Upsert(Kind.NAMESPACE, implied) in heard.events
    write(directory / "n.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {t: u}}}\n")
    heard.look()
    declared = Namespace("x", {"kubernetes.io/metadata.name": "x", "t": "u"})
    assert heard.events == [Upsert(Kind.NAMESPACE, declared)]
    (directory / "n.yaml").unlink()
    heard.look()
    assert heard.events == [Upsert(Kind.NAMESPACE, implied)]
    (directory / "a.yaml").unlink()
    heard.look()
    assert heard.events == [Delete(POLICY, A), Delete(Kind.NAMESPACE, Key("", "x"))]


@pytest.mark.parametrize("broken", ["a: [", "kind: Pod\n", "a: 1\na: 2\n", "{apiVersion: v1, kind: Pod}"])
def test_a_file_that_cannot_be_read_whole_keeps_its_objects(directory: Path, broken: str) -> None:
    write(directory / "a.yaml", text("a") + "---\n" + text("b"))
    heard = Heard(directory)
    heard.look()
    write(directory / "a.yaml", text("a", WIDER) + "---\n" + broken)
    assert heard.look() == []
    assert heard.synced
    assert heard.faults[0].startswith("a.yaml: line ")
    assert heard.source.states()[POLICY].fault == heard.faults[0]
    write(directory / "a.yaml", text("a"))
    assert heard.look() == [Delete(POLICY, B)]
    assert not heard.faults


def test_an_invalid_object_keeps_its_last_good_version_while_others_apply(directory: Path) -> None:
    write(directory / "a.yaml", text("a") + "---\n" + text("b"))
    heard = Heard(directory)
    heard.look()
    write(directory / "a.yaml", text("a", MISSPELT) + "---\n" + text("b", WIDER))
    invalid, upsert = heard.look()
    assert isinstance(invalid, Invalid)
    assert (invalid.key, invalid.problems[0].field) == (A, "spec.ingress[0].port")
    assert isinstance(upsert, Upsert)
    assert upsert.object.name == "b"
    assert "a.yaml line 1: NetworkPolicy x/a: spec.ingress[0].port" in heard.faults[0]
    assert heard.look() == []
    write(directory / "a.yaml", text("a") + "---\n" + text("b", WIDER))
    assert heard.look() == [Upsert(POLICY, NetworkPolicy("x", "a", ingress=()))]
    assert not heard.faults


def test_an_invalid_object_never_good_is_told_with_its_closed_policy(directory: Path) -> None:
    write(directory / "a.yaml", text("a", MISSPELT))
    heard = Heard(directory)
    invalid, synced = heard.look()
    assert isinstance(invalid, Invalid)
    assert invalid.closed == NetworkPolicy("x", "a", Selector(), (), None)
    assert isinstance(synced, Synced)
    (directory / "a.yaml").unlink()
    assert heard.look() == [Delete(POLICY, A)]


def test_a_restart_with_a_broken_file_holds_its_last_good_version(directory: Path, state: Path) -> None:
    write(directory / "a.yaml", text("a"))
    Heard(directory, state).look()
    write(directory / "a.yaml", "a: [")
    heard = Heard(directory, state)
    assert heard.look() == [Upsert(POLICY, NetworkPolicy("x", "a", ingress=())), Synced(POLICY)]
    assert heard.faults


def test_a_restart_with_an_invalid_object_holds_its_last_good_version(directory: Path, state: Path) -> None:
    write(directory / "a.yaml", text("a"))
    Heard(directory, state).look()
    write(directory / "a.yaml", text("a", MISSPELT))
    Heard(directory, state).look()
    heard = Heard(directory, state)
    assert kinds(heard.look()) == [Upsert, Invalid, Synced]


def test_what_was_kept_of_a_file_goes_with_it(directory: Path, state: Path) -> None:
    write(directory / "a.yaml", text("a"))
    Heard(directory, state).look()
    (directory / "a.yaml").unlink()
    assert kinds(Heard(directory, state).look()) == [Synced]
    write(directory / "a.yaml", "a: [")
    heard = Heard(directory, state)
    assert heard.look() == []
    assert not heard.synced


def test_a_damaged_state_file_is_passed_over(directory: Path, state: Path) -> None:
    write(directory / "a.yaml", text("a"))
    Heard(directory, state).look()
    for file in (state / "manifests").iterdir():
        file.write_text("{")
    assert kinds(Heard(directory, state).look()) == [Upsert, Synced]


@contextlib.contextmanager
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Gather what the source logs, by a logger that no configuration has been settled for."""
    monkeypatch.setattr(source_of_manifests, "log", structlog.get_logger())
    with structlog.testing.capture_logs() as logs:
        yield logs


def test_a_state_directory_that_cannot_be_written_is_a_fault_and_stops_nothing(
    directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory, tmp_path / "file")
    assert kinds(heard.look()) == [Upsert, Synced]
    write(directory / "a.yaml", text("a", WIDER))
    assert kinds(heard.look()) == [Upsert]
    assert "cannot be kept" in heard.faults[0]


def test_not_synced_until_every_file_was_read_whole(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    write(directory / "b.yaml", "a: [")
    heard = Heard(directory)
    assert kinds(heard.look()) == [Upsert]
    assert not heard.synced
    assert heard.faults[0].startswith("b.yaml: line ")
    write(directory / "b.yaml", text("b"))
    assert kinds(heard.look()) == [Upsert, Synced]


def test_one_object_in_two_files_the_first_path_holds(directory: Path) -> None:
    write(directory / "b.yaml", text("a", WIDER))
    heard = Heard(directory)
    heard.look()
    write(directory / "a.yaml", text("a"))
    assert heard.look() == [Upsert(POLICY, NetworkPolicy("x", "a", ingress=()))]
    assert heard.faults == (
        "b.yaml line 1: NetworkPolicy x/a: already in a.yaml line 1, which holds; remove one of the two",
    )
    (directory / "a.yaml").unlink()
    assert kinds(heard.look()) == [Upsert]
    assert not heard.faults


def test_an_object_twice_in_one_file_the_first_holds(directory: Path) -> None:
    write(directory / "a.yaml", text("a") + "---\n" + text("a", WIDER))
    heard = Heard(directory)
    assert heard.look()[0] == Upsert(POLICY, NetworkPolicy("x", "a", ingress=()))
    assert "a.yaml line 6" in heard.faults[0]


def test_a_directory_that_vanishes_deletes_nothing(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory)
    heard.look()
    shutil.move(directory, directory.with_name("away"))
    assert heard.look() == []
    assert "No such file or directory; make it a directory" in heard.source.states()[POLICY].fault
    assert heard.synced
    shutil.move(directory.with_name("away"), directory)
    assert heard.look() == []
    assert heard.source.states()[POLICY].fault == ""


def test_a_missing_directory_is_a_fault_until_it_appears(directory: Path) -> None:
    directory.rmdir()
    heard = Heard(directory)
    assert heard.look() == []
    assert not heard.synced
    directory.mkdir()
    assert kinds(heard.look()) == [Synced]


def test_files_below_and_links_are_read_and_hidden_ones_are_not(directory: Path) -> None:
    (directory / "team").mkdir()
    write(directory / "team/a.json", '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}')
    (directory / ".hidden.yaml").write_text("junk: [")
    (directory / "notes.txt").write_text("junk: [")
    heard = Heard(directory)
    heard.look()
    assert [e.object.name for e in heard.events if isinstance(e, Upsert)] == ["default", "p"]
    assert heard.synced


def test_a_dangling_link_and_a_pipe_are_faults(directory: Path) -> None:
    (directory / "a.yaml").symlink_to("nowhere")
    os.mkfifo(directory / "b.yaml")
    heard = Heard(directory)
    heard.look()
    assert [f.partition(":")[0] for f in heard.faults] == ["a.yaml", "b.yaml"]


def test_links_swapped_as_in_a_mounted_config_map(directory: Path) -> None:
    (directory / "..1").mkdir()
    (directory / "..1/a.yaml").write_text(text("a"))
    (directory / "..data").symlink_to("..1")
    (directory / "a.yaml").symlink_to("..data/a.yaml")
    heard = Heard(directory)
    assert kinds(heard.look()) == [Upsert, Synced]
    (directory / "..2").mkdir()
    (directory / "..2/a.yaml").write_text(text("a", WIDER))
    (directory / "..data_tmp").symlink_to("..2")
    (directory / "..data_tmp").replace(directory / "..data")
    shutil.rmtree(directory / "..1")
    assert kinds(heard.look()) == [Upsert]


def test_a_file_just_emptied_is_looked_at_again_first(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory)
    heard.look()
    (directory / "a.yaml").write_text("")
    assert heard.look() == []
    old = time.time() - 5
    os.utime(directory / "a.yaml", (old, old))
    assert heard.look() == [Delete(POLICY, A)]


def test_reading_once_gives_objects_in_order_and_problems(directory: Path) -> None:
    write(directory / "b.yaml", text("b", MISSPELT))
    write(directory / "a.yaml", text("a"))
    write(directory / "c.yaml", "a: [")
    objects, problems = read_manifests(directory)
    assert [getattr(o, "name", "") for o in objects] == ["x", "a", "b"]
    assert objects[2] == NetworkPolicy("x", "b", Selector(), (), None)
    assert [p.partition(" ")[0] for p in problems] == ["c.yaml:", "b.yaml"]
    assert read_manifests(directory / "none")[1][0].endswith("no such file or directory; correct the path")


@pytest.fixture
def running(directory: Path, state: Path) -> Iterator[tuple[ManifestSource, list[Event]]]:
    events: list[Event] = []
    source = ManifestSource(directory, state)
    source.start(events.extend)
    yield source, events
    began = time.monotonic()
    source.stop()
    assert time.monotonic() - began < 1.0
    assert "source-manifests" not in [t.name for t in threading.enumerate()]


def wait(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "did not happen"
        time.sleep(0.002)
    return time.monotonic() - began


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
        old = time.time() - 3600
        os.utime(directory / "a.yaml", (old, old))
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
    heard = Heard(directory)
    assert heard.look() == []
    second_ago = time.time() - 1.1
    os.utime(directory / "a.yaml", (second_ago, second_ago))
    assert kinds(heard.look()) == [Upsert, Synced]


def test_a_clock_that_is_wrong_holds_nothing_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_is_local", lambda _: False)
    (directory / "a.yaml").write_text(text("a"))
    later = time.time() + 86400
    os.utime(directory / "a.yaml", (later, later))
    heard = Heard(directory)
    assert heard.look() == []
    time.sleep(1.05)
    assert kinds(heard.look()) == [Upsert, Synced]


def test_a_broken_off_last_line_is_waited_for_unless_the_file_was_replaced(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory)
    heard.look()
    (directory / "a.yaml").write_text(text("a", WIDER).rstrip())
    assert heard.look() == []
    some_ago = time.time() - 6
    os.utime(directory / "a.yaml", (some_ago, some_ago))
    assert kinds(heard.look()) == [Upsert]
    write(directory / "a.yaml", text("a").rstrip())
    assert kinds(heard.look()) == [Upsert]


def test_the_end_of_a_slow_write_is_told_soon_and_nothing_before_it(
    directory: Path, running: tuple[ManifestSource, list[Event]]
) -> None:
    source, events = running
    wait(lambda: source.states()[POLICY].synced)
    cut = BLOCKS.index("    - port: 80")
    with (directory / "a.yaml").open("w") as file:
        file.write(BLOCKS[:cut])
        file.flush()
        time.sleep(1.5)
        assert not [e for e in events if isinstance(e, Upsert)]
        file.write(BLOCKS[cut:])
    assert wait(lambda: any(e.kind is POLICY and isinstance(e, Upsert) for e in events)) < 1.0
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
    assert opened.wait(2.0)
    writer.join()


def test_a_change_is_told_soon(directory: Path, running: tuple[ManifestSource, list[Event]]) -> None:
    source, events = running
    wait(lambda: source.states()[POLICY].synced)
    time.sleep(0.2)
    (directory / "a.yaml").write_text(text("a"))
    assert wait(lambda: any(e.kind is POLICY and isinstance(e, Upsert) for e in events)) < 1.0
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
    assert source.states()[POLICY].fault == ""


UNSELECTED = "{podSelectr: {}}"


def test_an_object_that_moves_to_another_file_and_breaks_keeps_its_last_good_version(
    directory: Path, state: Path
) -> None:
    write(directory / "a.yaml", text("a"))
    write(directory / "b.yaml", text("b"))
    heard = Heard(directory, state)
    heard.look()
    write(directory / "a.yaml", "# moved\n")
    write(directory / "b.yaml", text("b") + "---\n" + text("a", UNSELECTED))
    assert kinds(heard.look()) == [Invalid]
    assert kinds(Heard(directory, state).look()) == [Upsert, Invalid, Upsert, Synced]


def test_nothing_goes_while_it_may_be_in_a_file_that_was_never_read(directory: Path) -> None:
    write(directory / "a.yaml", text("a"))
    heard = Heard(directory)
    heard.look()
    (directory / "a.yaml").rename(directory / "b.yaml")
    write(directory / "b.yaml", text("a", "["))
    assert heard.look() == []
    assert heard.faults[0].startswith("b.yaml: line ")
    write(directory / "b.yaml", text("b"))
    assert heard.look() == [Upsert(POLICY, NetworkPolicy("x", "b", ingress=())), Delete(POLICY, A)]


def test_a_name_that_is_not_utf_8_is_a_fault_that_can_be_printed(directory: Path, state: Path) -> None:
    write(directory / "a.yaml", text("a"))
    odd = os.path.join(os.fsencode(directory), b"\xff.yaml")
    with open(odd, "w") as file:
        file.write(text("b"))
    heard = Heard(directory, state)
    assert kinds(heard.look()) == [Upsert]
    assert heard.faults == ("\\udcff.yaml: its name is not UTF-8; rename it",)
    assert read_manifests(directory)[1] == heard.faults
    os.unlink(odd)
    assert kinds(heard.look()) == [Synced]


def test_what_nobody_reads_spoils_no_state(directory: Path, state: Path) -> None:
    loop = "{x: .nan, y: " + "9" * 400 + ", z: [[[]]]}"
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{unread: {loop}}}\n"
    write(directory / "a.yaml", pod + "---\n" + text("a"))
    write(directory / "b.yaml", text("b"))
    heard = Heard(directory, state)
    heard.look()
    assert not heard.faults
    for name in ("a.yaml", "b.yaml"):
        write(directory / name, "a: [")
    again = Heard(directory, state)
    assert kinds(again.look()) == [Upsert, Upsert, Synced]


def test_a_state_directory_that_cannot_be_used_is_told_once_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "a.yaml").write_text(text("a"))
    (tmp_path / "state").write_text("a file")
    with logged(monkeypatch) as logs:
        heard = Heard(manifests, tmp_path / "state")
        heard.look()
        (manifests / "b.yaml").write_text(text("b"))
        heard.look()
    told = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(entry["event"], entry["path"], entry["error"]) for entry in told] == [
        ("state directory not usable", str(tmp_path / "state"), "Not a directory")
    ]
    assert "last good version" in told[0]["consequence"]
    assert "--state-dir" in told[0]["remedy"]
    assert heard.synced
    (tmp_path / "state").unlink()
    (manifests / "a.yaml").write_text(text("a", WIDER))
    (manifests / "b.yaml").write_text(text("b", WIDER))
    heard.look()
    heard.look()
    assert (tmp_path / "state").is_dir()


def test_an_unreachable_state_directory_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: LastGood) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LastGood, "load", refuse)
    heard = Heard(tmp_path, tmp_path / "state")
    heard.look()
    assert heard.synced


def test_a_refusal_in_the_log_names_the_file_and_what_holds_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(text("a"))
    (tmp_path / "pod.yaml").write_text("{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {a: [1]}}}")
    heard = Heard(tmp_path)
    heard.look()
    (tmp_path / "a.yaml").write_text(text("a", MISSPELT) + "---\n" + text("b", MISSPELT))
    with logged(monkeypatch) as logs:
        heard.look()
        (tmp_path / "c.yaml").write_text("{")
        heard.look()
        (tmp_path / "a.yaml").write_text("{")
        heard.look()
    assert [(e["object"], e["file"], e["meanwhile"]) for e in logs if e["event"] == "object refused"] == [
        ("x/a", "a.yaml line 1", "the last good version stays in force"),
        ("x/b", "a.yaml line 6", "the pods it selects are closed until it is right"),
    ]
    unread = [(e["problem"].split(":")[0], e["meanwhile"]) for e in logs if e["event"] == "manifest not read"]
    assert unread == [
        ("c.yaml", "nothing of it is enforced until it can be read"),
        ("a.yaml", "the last good version of its objects stays in force"),
    ]


def test_the_log_says_that_a_kustomization_is_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kustomization.yaml").write_text("namespace: shop\nresources: [np.yaml]\n")
    with logged(monkeypatch) as logs:
        Heard(tmp_path).look()
    told = [entry for entry in logs if entry["event"] == "kustomization not applied"]
    assert [(e["log_level"], e["file"], e["detail"], e["remedy"]) for e in told] == [
        (
            "warning",
            "kustomization.yaml",
            "files are read as they stand, without its namespace and patches",
            "keep the output of kubectl kustomize here instead",
        )
    ]
    assert not [entry for entry in logs if entry["event"] == "kind ignored"]
