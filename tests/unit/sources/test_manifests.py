"""A directory of manifests: what is read, what is kept when it cannot be, and what is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agent.kube.events import UNKNOWN, Delete, Invalid, Origin, Synced, Upsert
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Selector
from tests.lab.reading import read_manifests
from tests.unit.sources.manifested import (
    JUST_NOW,
    MISSPELT,
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
    age(directory / "a.yaml", JUST_NOW)
    assert heard.look() == []
    age(directory / "a.yaml", 5)
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
