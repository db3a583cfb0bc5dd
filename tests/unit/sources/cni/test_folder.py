"""Folders that are watched: files written in place, folders that come and go."""

from __future__ import annotations

import shutil
from pathlib import Path

from agent.sources.cni.folder import Folders, Seen


def told(folders: Folders) -> list[Seen]:
    return list(folders.take())


def test_files_are_told_at_the_beginning_when_they_are_closed_and_when_they_go(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("1")
    folders = Folders([tmp_path])
    assert list(folders.begin()) == [Seen(tmp_path / "old", there=True)]
    with (tmp_path / "new").open("w") as file:
        file.write("half")
        file.flush()
        assert told(folders) == []
    assert told(folders) == [Seen(tmp_path / "new", there=True, live=True)]
    (tmp_path / "renamed").symlink_to("nowhere")
    (tmp_path / "old").rename(tmp_path / "renamed")
    (tmp_path / "new").unlink()
    assert told(folders) == [
        Seen(tmp_path / "old", there=False),
        Seen(tmp_path / "renamed", there=True, live=True),
        Seen(tmp_path / "new", there=False),
    ]


def test_a_folder_that_comes_later_is_watched_from_its_first_file_on(tmp_path: Path) -> None:
    """As libcni makes it: all directories at once, and the file right after."""
    folder = tmp_path / "var/lib/cni/results"
    folders = Folders([folder])
    assert list(folders.begin()) == []
    assert not folders.present
    folder.mkdir(parents=True)
    (folder / "first").write_text("1")
    assert Seen(folder / "first", there=True, live=True) in told(folders)
    assert list(folders.present) == [folder]
    (folder / "second").write_text("1")
    assert Seen(folder / "second", there=True, live=True) in told(folders)


def test_directories_that_come_one_by_one_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "a/b/c"
    folders = Folders([folder])
    assert list(folders.begin()) == []
    for part in (tmp_path / "a", tmp_path / "a/b", folder):
        part.mkdir()
        assert told(folders) == []
    (folder / "x").write_text("1")
    assert told(folders) == [Seen(folder / "x", there=True, live=True)]


def test_a_folder_that_goes_and_comes_again(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "x").write_text("1")
    folders = Folders([folder])
    assert len(list(folders.begin())) == 1
    shutil.rmtree(folder)
    gone = told(folders)
    assert set(gone) == {Seen(folder / "x", there=False)}
    assert not folders.present
    folder.mkdir()
    (folder / "y").write_text("1")
    assert set(told(folders)) == {Seen(folder / "y", there=True, live=True)}


def test_two_folders_are_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "one/two"
    one.mkdir()
    folders = Folders([one, two])
    assert list(folders.begin()) == []
    two.mkdir()
    (two / "x").write_text("1")
    (one / "y").write_text("1")
    assert {Seen(two / "x", True, True), Seen(one / "y", True, True)} <= set(told(folders))


def test_a_folder_that_is_a_file_is_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    folders = Folders([tmp_path / "results"])
    assert list(folders.begin()) == []
    assert not folders.present
    assert folders.faults == {}
