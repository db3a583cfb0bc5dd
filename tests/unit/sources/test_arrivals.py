"""Which files are read at once though their last line has no end: those that came whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.kube.events import Upsert
from agent.kube.model import Kind
from agent.sources.manifests import directory as reading
from agent.sources.manifests.arrivals import Arrivals
from agent.sources.manifests.source import ManifestSource
from tests.unit.sources.manifested import WIDER, Heard, text
from tests.unit.sources.scripted import wait

UNENDED = text("a").rstrip()


@pytest.fixture(autouse=True)
def _an_unended_file_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "UNENDED_SECONDS", float("inf"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of manifests, with room for others' files beside it, on one file system."""
    (tmp_path / "manifests/team").mkdir(parents=True)
    (tmp_path / "aside").mkdir()
    return tmp_path


def told(heard: Heard) -> list[str]:
    heard.look()
    return [e.object.name for e in heard.events if isinstance(e, Upsert) and e.kind is Kind.POLICY]


def renamed(place: Path, file: Path) -> None:
    (place / "aside/x").write_text(UNENDED)
    (place / "aside/x").rename(file)


def renamed_from_a_hidden_name(_: Path, file: Path) -> None:
    hidden = file.with_name(f".{file.name}.Xq3f1")
    hidden.write_text(UNENDED)
    hidden.rename(file)


def linked(place: Path, file: Path) -> None:
    (place / "aside/x").write_text(UNENDED)
    os.link(place / "aside/x", file)


def linked_and_unlinked(place: Path, file: Path) -> None:
    linked(place, file)
    (place / "aside/x").unlink()


def a_symbolic_link(place: Path, file: Path) -> None:
    (place / "aside/x").write_text(UNENDED)
    file.symlink_to(place / "aside/x")


def written_then_renamed_within(_: Path, file: Path) -> None:
    other = file.with_name("draft.txt")
    other.write_text(UNENDED)
    other.rename(file)


WHOLE = [
    renamed,
    renamed_from_a_hidden_name,
    linked,
    linked_and_unlinked,
    a_symbolic_link,
    written_then_renamed_within,
]


def written(_: Path, file: Path) -> None:
    file.write_text(UNENDED)


def copied(place: Path, file: Path) -> None:
    (place / "aside/x").write_text(UNENDED)
    shutil.copyfile(place / "aside/x", file)


def removed_and_made_anew(_: Path, file: Path) -> None:
    file.unlink(missing_ok=True)
    file.write_text(UNENDED)


def moved_to_a_backup_and_made_anew(_: Path, file: Path) -> None:
    # As vim does with backupcopy=no.
    if file.exists():
        file.rename(f"{file}~")
    file.write_text(UNENDED)


def renamed_then_written_on(place: Path, file: Path) -> None:
    renamed(place, file)
    with file.open("a") as more:
        more.write("  # and")


def renamed_then_shortened(place: Path, file: Path) -> None:
    renamed(place, file)
    os.truncate(file, len(UNENDED) - 1)


IN_PLACE = [
    written,
    copied,
    removed_and_made_anew,
    moved_to_a_backup_and_made_anew,
    renamed_then_written_on,
    renamed_then_shortened,
]

Way = Callable[[Path, Path], None]


@pytest.mark.parametrize("folder", [".", "team"])
@pytest.mark.parametrize("there", [False, True], ids=["a new name", "a name that is there"])
@pytest.mark.parametrize("way", WHOLE, ids=lambda way: way.__name__)
def test_what_came_whole_is_read_at_once(place: Path, way: Way, there: bool, folder: str) -> None:
    file = place / "manifests" / folder / "a.yaml"
    heard = Heard(place / "manifests")
    if there:
        file.write_text(text("a", WIDER))
    told(heard)
    if there and way is not renamed and not way.__name__.startswith(("renamed", "written")):
        file.unlink()
    way(place, file)
    assert told(heard) == ["a"]
    # Once read, it is a file like any other.
    with file.open("a") as more:
        more.write("  # and")
    assert told(heard) == []
    heard.source.stop()


@pytest.mark.parametrize("there", [False, True], ids=["a new name", "a name that is there"])
@pytest.mark.parametrize("way", IN_PLACE, ids=lambda way: way.__name__)
def test_what_was_written_in_place_is_waited_for(place: Path, way: Way, there: bool) -> None:
    file = place / "manifests/a.yaml"
    if there:
        file.write_text(text("a", WIDER))
    heard = Heard(place / "manifests")
    told(heard)
    way(place, file)
    assert told(heard) == []
    with file.open("a") as more:
        more.write("\n")
    if way is not renamed_then_shortened:
        assert told(heard) == ["a"]


def test_a_file_that_is_still_open_for_writing_is_waited_for_wherever_it_came_from(place: Path) -> None:
    heard = Heard(place / "manifests")
    told(heard)
    with (place / "aside/x").open("w") as file:
        file.write(text("a")[:-20])
        file.flush()
        (place / "aside/x").rename(place / "manifests/a.yaml")
        assert told(heard) == []
        file.write(text("a")[-20:])
    assert told(heard) == ["a"]


def test_a_config_map_with_a_new_key_is_read_at_once(place: Path) -> None:
    manifests = place / "manifests"
    (manifests / "..1").mkdir()
    (manifests / "..1/a.yaml").write_text(text("a", WIDER))
    (manifests / "..data").symlink_to("..1")
    (manifests / "a.yaml").symlink_to("..data/a.yaml")
    heard = Heard(manifests)
    told(heard)
    (manifests / "..2").mkdir()
    (manifests / "..2/a.yaml").write_text(UNENDED)
    (manifests / "..2/b.yaml").write_text(text("b").rstrip())
    (manifests / "..data_tmp").symlink_to("..2")
    (manifests / "..data_tmp").replace(manifests / "..data")
    (manifests / "b.yaml").symlink_to("..data/b.yaml")
    assert told(heard) == ["a", "b"]


def test_what_lies_there_at_the_start_or_in_a_new_directory_may_have_been_written_in_place(
    place: Path,
) -> None:
    (place / "manifests/a.yaml").write_text(UNENDED)
    heard = Heard(place / "manifests")
    assert told(heard) == []
    (place / "aside/new").mkdir()
    (place / "aside/new/b.yaml").write_text(text("b").rstrip())
    (place / "aside/new").rename(place / "manifests/new")
    assert told(heard) == []
    (place / "aside/c").write_text(text("c").rstrip())
    (place / "aside/c").rename(place / "manifests/new/c.yaml")
    assert told(heard) == ["c"]


def test_a_directory_that_takes_anothers_name_is_watched_anew(place: Path) -> None:
    manifests = place / "manifests"
    arrivals = Arrivals(manifests)
    arrivals.watch([".", "team"])
    (manifests / "team").rename(place / "aside/old")
    (manifests / "team").mkdir()
    renamed(place, place / "aside/old/a.yaml")
    assert not arrivals.came_whole("team/a.yaml")
    arrivals.watch([".", "team"])
    renamed(place, place / "aside/old/b.yaml")
    renamed(place, manifests / "team/c.yaml")
    assert [arrivals.came_whole(f"team/{name}.yaml") for name in "abc"] == [False, False, True]
    assert arrivals.knows("team/c.yaml")
    arrivals.watch(["."])
    assert not arrivals.knows("team/c.yaml")
    assert not arrivals.came_whole("team/c.yaml")


def test_what_is_not_told_did_not_come_whole(place: Path) -> None:
    arrivals = Arrivals(place / "manifests")
    arrivals.watch(["."])
    renamed(place, place / "manifests/a.yaml")
    assert arrivals.came_whole("a.yaml")
    # More than the kernel keeps of what nobody has asked for.
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(limit + 10):
        (place / f"manifests/{number % 7}").write_text("")
    assert not arrivals.came_whole("a.yaml")
    none_left = Arrivals(place / "nowhere")
    none_left.watch(["."])
    assert not none_left.knows("a.yaml")


def test_a_running_source_tells_of_a_rename(place: Path) -> None:
    names: list[str] = []
    source = ManifestSource(place / "manifests")
    source.start(lambda events: names.extend(e.object.name for e in events if isinstance(e, Upsert)))
    try:
        wait(lambda: source.states()[Kind.POLICY].synced)
        renamed(place, place / "manifests/a.yaml")
        wait(lambda: "a" in names)
    finally:
        source.stop()
