"""What the manifests source keeps over a restart: last good versions, and where they cannot be kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.kube.events import Delete, Invalid, Synced, Upsert
from agent.kube.model import NetworkPolicy
from agent.sources.manifests import source as source_of_manifests
from agent.sources.manifests.lastgood import LastGood
from tests.lab.reading import read_manifests
from tests.unit.sources.manifested import MISSPELT, POLICY, WIDER, A, Heard, kinds, text, write


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
