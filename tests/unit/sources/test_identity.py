"""One cluster is told from another by the uid of its namespace kube-system, and a person decides."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.commands.cli import main
from agent.kernel import node_lock
from agent.kube.events import Delete, Synced, Upsert
from agent.kube.model import Key, Kind
from agent.sources.apiserver.identity import (
    ClusterIdentity,
    NotConfirmedError,
    OtherClusterError,
    Records,
    confirm,
)
from agent.sources.apiserver.proof import UnprovenError
from tests.unit.sources.scripted import Running, Script, page, pod, refuse, stream, wait

ONE, OTHER = "11111111-aaaa", "22222222-bbbb"
ADDRESS = "https://192.0.2.1:6443"


class Server:
    """Answers the question which cluster it is."""

    def __init__(self, uid: str = ONE) -> None:
        self.uid = uid
        self.asked = 0
        self.now = 0.0

    def ask(self, _: float) -> bytes:
        self.asked += 1
        meta = {"name": "kube-system", "uid": self.uid, "resourceVersion": "4"}
        items = [{"metadata": meta}] if self.uid else []
        whole = {"kind": "NamespaceList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}
        return json.dumps({**whole, "items": items}).encode()

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def identity(self, directory: Path | None, *, fresh: bool = False) -> ClusterIdentity:
        return ClusterIdentity(self.ask, lambda: ADDRESS, Records(directory), fresh=fresh, clock=self.clock)


@pytest.fixture
def server() -> Server:
    return Server()


def verify(identity: ClusterIdentity, server: Server) -> int:
    return identity.verify(server.clock())


def test_the_first_cluster_is_remembered_and_another_one_is_not_taken(server: Server, tmp_path: Path) -> None:
    identity = server.identity(tmp_path)
    assert verify(identity, server) == 0
    assert identity.known
    server.uid = OTHER
    with pytest.raises(OtherClusterError) as caught:
        verify(identity, server)
    for words in (ONE, OTHER, ADDRESS, "nothing changes", "netpol-agent confirm-cluster"):
        assert words in str(caught.value)
    # The right one is back: nobody has to do anything.
    server.uid = ONE
    assert verify(identity, server) == 0


def test_a_restart_remembers_it(server: Server, tmp_path: Path) -> None:
    verify(server.identity(tmp_path), server)
    server.uid = OTHER
    with pytest.raises(OtherClusterError):
        verify(server.identity(tmp_path), server)


def test_a_node_that_holds_nothing_takes_the_cluster_that_it_finds(server: Server, tmp_path: Path) -> None:
    verify(server.identity(tmp_path), server)
    server.uid = OTHER
    assert verify(server.identity(tmp_path, fresh=True), server) == 0
    server.uid = ONE
    with pytest.raises(OtherClusterError):
        verify(server.identity(tmp_path), server)


def test_it_does_so_where_what_was_remembered_cannot_be_forgotten(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify(server.identity(tmp_path), server)
    server.uid = OTHER

    def refuse_to(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse_to)
    monkeypatch.setattr(os, "replace", refuse_to)
    identity = server.identity(tmp_path, fresh=True)
    assert verify(identity, server) == 0
    server.uid = ONE
    with pytest.raises(OtherClusterError):
        verify(identity, server)


def test_a_cluster_that_has_no_such_namespace_yet_is_taken_and_remembered_when_it_has(
    server: Server, tmp_path: Path
) -> None:
    server.uid = ""
    identity = server.identity(tmp_path)
    assert verify(identity, server) == 0
    assert not (tmp_path / "cluster").exists()
    server.uid = ONE
    verify(identity, server)
    assert (tmp_path / "cluster").read_text() == f"{ONE}\n"


def test_a_cluster_without_it_is_another_one_where_one_is_known(server: Server, tmp_path: Path) -> None:
    identity = server.identity(tmp_path)
    verify(identity, server)
    server.uid = ""
    with pytest.raises(OtherClusterError, match="it has no namespace kube-system"):
        verify(identity, server)
    # There is no uid that a person could confirm.
    with pytest.raises(NotConfirmedError, match="has found no other cluster"):
        confirm(Records(tmp_path))


def test_a_person_confirms_the_cluster_that_was_found(server: Server, tmp_path: Path) -> None:
    identity = server.identity(tmp_path)
    verify(identity, server)
    server.uid = OTHER
    with pytest.raises(OtherClusterError):
        verify(identity, server)
    assert confirm(Records(tmp_path)) == OTHER
    assert verify(identity, server) == 1
    # Once, and for this cluster only.
    server.uid = ONE
    with pytest.raises(OtherClusterError):
        verify(identity, server)
    assert not (tmp_path / "cluster-confirmed").exists()


def test_a_cluster_is_confirmed_beforehand_by_its_uid(server: Server, tmp_path: Path) -> None:
    identity = server.identity(tmp_path)
    verify(identity, server)
    with pytest.raises(NotConfirmedError):
        confirm(Records(tmp_path))
    assert confirm(Records(tmp_path), OTHER) == OTHER
    # Until that one is there, the old one holds.
    assert verify(identity, server) == 0
    server.uid = OTHER
    assert verify(identity, server) == 1


@pytest.mark.parametrize("text", ["", "../../etc/passwd", "a b", "x" * 200, "-"])
def test_what_is_no_uid_is_not_confirmed(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotConfirmedError, match="is no uid"):
        confirm(Records(tmp_path), text)


def test_one_question_serves_all_who_ask_for_a_moment_before_it(server: Server, tmp_path: Path) -> None:
    identity = server.identity(tmp_path)
    moments = [server.clock() for _ in range(4)]
    for moment in moments:
        identity.verify(moment)
    assert server.asked == 1
    verify(identity, server)
    assert server.asked == 2


def test_what_was_found_wrong_is_found_by_all(server: Server, tmp_path: Path) -> None:
    identity = server.identity(tmp_path)
    verify(identity, server)
    server.uid = OTHER
    moment = server.clock()
    for _ in range(3):
        with pytest.raises(OtherClusterError):
            identity.verify(moment)
    assert server.asked == 2


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"kind":"Status","code":500}'])
def test_an_answer_that_is_no_list_says_nothing(tmp_path: Path, body: bytes) -> None:
    server = Server()
    verify(server.identity(tmp_path), server)
    later = ClusterIdentity(lambda _: body, lambda: ADDRESS, Records(tmp_path), clock=server.clock)
    with pytest.raises(UnprovenError):
        verify(later, server)


def test_where_nothing_can_be_written_it_is_remembered_while_the_agent_runs(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    identity = server.identity(tmp_path / "file")
    verify(identity, server)
    assert "the uid of the cluster cannot be saved" in capsys.readouterr().out
    server.uid = OTHER
    with pytest.raises(OtherClusterError):
        verify(identity, server)


def test_junk_in_the_file_is_nothing_remembered(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cluster").write_bytes(b"\xff\x00 junk\n")
    assert verify(server.identity(tmp_path), server) == 0
    assert (tmp_path / "cluster").read_text() == f"{ONE}\n"


def test_the_command_confirms_and_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_lock, "LOCK", tmp_path / "lock")
    runner = CliRunner()
    nothing = runner.invoke(main, ["confirm-cluster"])
    assert nothing.exit_code == 1
    assert "has found no other cluster" in nothing.output
    Records(tmp_path).write("cluster-other", OTHER)
    done = runner.invoke(main, ["confirm-cluster"])
    assert (done.exit_code, done.output) == (
        0,
        f"confirmed: the cluster whose namespace kube-system has the uid {OTHER}\n",
    )
    assert Records(tmp_path).read("cluster-confirmed") == OTHER
    assert runner.invoke(main, ["confirm-cluster", "no uid"]).exit_code == 1


def test_another_cluster_changes_nothing_until_a_person_confirms(
    script: Script, running: Callable[..., Running], server: Server, tmp_path: Path
) -> None:
    """Its versions may be lower, and its objects have names of their own."""
    records = Records(tmp_path)
    verify(server.identity(tmp_path), server)
    server.uid = OTHER
    script.lists = [page(30, pod("a", 1), pod("b", 2))]
    script.watches = [refuse(410), stream(hold=3.0)]
    found = running(identity=server.identity(tmp_path), seen=tmp_path / "Pod")
    wait(lambda: "another cluster answers" in found.reflector.state().fault)
    assert found.events == []
    assert not found.reflector.state().synced
    server.uid = ONE
    wait(lambda: found.reflector.state().synced)
    told = list(found.events)
    assert [type(event) for event in told] == [Upsert, Upsert, Synced]
    wait(lambda: not records.read("cluster-other"))
    script.lists = [page(7, pod("c", 3))]
    script.watches = [refuse(410), stream()]
    server.uid = OTHER
    wait(lambda: records.read("cluster-other"))
    assert found.events == told
    confirm(records)
    wait(lambda: len(found.events) == 6)
    # At once: a person has said that what was there is gone.
    assert [event.object.name for event in found.events[3:] if isinstance(event, Upsert)] == ["c"]
    assert set(found.events[4:]) == {Delete(Kind.POD, Key("x", name)) for name in "ab"}
    wait(lambda: found.reflector.state().fault == "")


def test_another_clusters_pods_of_this_node_are_not_told_before_the_others_either(
    script: Script, running: Callable[..., Running], server: Server, tmp_path: Path
) -> None:
    verify(server.identity(tmp_path), server)
    server.uid = OTHER
    script.lists = [page(30, pod("theirs", 1))]
    script.watches = [stream()]
    found = running(identity=server.identity(tmp_path), seen=tmp_path / "Pod", first="spec.nodeName=n")
    wait(lambda: "another cluster answers" in found.reflector.state().fault)
    assert found.events == []
    # Nor is it remembered how far that cluster is, which may be further than the right one.
    script.lists = [page(7, pod("ours", 1))]
    server.uid = ONE
    wait(lambda: found.reflector.state().synced)
    assert [event.object.name for event in found.events if isinstance(event, Upsert)] == ["ours"]


def test_a_watch_that_another_cluster_answers_tells_nothing(
    script: Script, running: Callable[..., Running], server: Server, tmp_path: Path
) -> None:
    script.lists = [page(3, pod("a", 1))]
    script.watches = [stream(hold=0.0)]
    found = running(identity=server.identity(tmp_path))
    wait(lambda: found.reflector.state().current)
    told = list(found.events)
    server.uid = OTHER
    wait(lambda: "another cluster answers" in found.reflector.state().fault)
    assert found.events == told
