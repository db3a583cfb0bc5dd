"""Hand-made files that must be refused: by name and reason, with all that is enforced left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.kube.events import Event
from agent.kube.model import Kind, Namespace, Pod
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from agent.sources.manifests.source import ManifestSource
from tests.build import packed
from tests.property.test_compiler import snapshot
from tests.unit.sources.manifested import text, write

GOOD = text("a", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}")
OTHER = text("b", "{podSelector: {matchLabels: {app: a}}, egress: [], policyTypes: [Egress]}")
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: x, labels: {app: a}}
spec: {nodeName: here}
status: {podIP: 10.0.0.1}
"""


class Place:
    """A directory with a policy in a.yaml and another in b.yaml, both enforced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "a.yaml"
        self.engine = Engine("here")
        self.source = ManifestSource(directory)
        write(directory / "pod.yaml", POD)
        write(directory / "b.yaml", OTHER)
        write(self.file, GOOD)
        self.look()
        self.before = snapshot(self.engine.lowered)
        assert len(self.before.pods) == 2

    def look(self) -> tuple[str, ...]:
        events: list[Event] = []
        self.source.refresh(events.extend)
        self.engine.apply(events, 0.0)
        return self.source.states()[Kind.POLICY].faults

    def put(self, content: bytes) -> None:
        temporary = self.directory / ".new"
        temporary.write_bytes(content)
        temporary.replace(self.file)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    directory = tmp_path / "manifests"
    directory.mkdir()
    return Place(directory)


def spec(changed: str) -> bytes:
    return text("a", changed).encode()


BAD = {
    "a number for a string": (spec("{podSelector: {matchLabels: {app: 5}}}"), "matchLabels[app]"),
    "an unknown field": (spec("{podSelector: {}, ingress: [{port: 80}]}"), "spec.ingress[0].port"),
    "another case": (spec("{podselector: {}}"), "spec.podselector"),
    "a bad block": (spec("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}"), "ipBlock.cidr"),
    "host bits": (spec("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}"), "write 10.0.0.0/8"),
    "an except outside": (
        spec("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}"),
        "except[0]",
    ),
    "a bad operator": (
        spec("{podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}"),
        "matchExpressions[0].operator",
    ),
    "In of nothing": (spec("{podSelector: {matchExpressions: [{key: a, operator: In}]}}"), "values"),
    "endPort below port": (spec("{ingress: [{ports: [{port: 90, endPort: 80}]}]}"), "endPort"),
    "endPort of a name": (spec("{ingress: [{ports: [{port: http, endPort: 80}]}]}"), "endPort"),
    "a great number": (spec("{ingress: [{ports: [{port: " + "9" * 30 + "}]}]}"), "ports[0].port"),
    "an endless number": (spec("{ingress: [{ports: [{port: " + "9" * 9000 + "}]}]}"), "line 4"),
    "an empty peer": (spec("{ingress: [{from: [{}]}]}"), "from[0]"),
    "a null peer": (spec("{ingress: [{from: [null]}]}"), "from[0]"),
    "a bad type": (spec("{policyTypes: [Inwards]}"), "policyTypes[0]"),
    "a list for the spec": (spec("[]"), "spec"),
    "a bad name": (text("A_", "{}").encode(), "metadata.name"),
    "a bad namespace": (GOOD.replace("namespace: x", "namespace: X_").encode(), "metadata.namespace"),
    "no name": (GOOD.replace("name: a, ", "").encode(), "metadata.name"),
    "another kind": (GOOD.replace("NetworkPolicy", "NetworkPolcy").encode(), "is unknown"),
    "another group": (GOOD.replace("networking.k8s.io", "networking.k8.io").encode(), "apiVersion"),
    "cut off": (GOOD.encode()[:-5], "line"),
    "a tab": (GOOD.replace("kind", "\tkind").encode(), "line 2"),
    "a key twice": ((GOOD + "spec: {podSelector: {}}\n").encode(), "line 5: key 'spec' is written twice"),
    "not UTF-8": (GOOD.encode() + b"# \xff\n", "UTF-8"),
    "a zero byte": (GOOD.encode() + b"\x00", "UTF-8"),
    "an alias of itself": (spec("&s {ingress: *s}"), "alias 's' lies in"),
    "an alias of nothing": (spec("*s"), "alias"),
    "a merge of no mapping": (spec("{<<: [5]}"), "<<"),
    "a bomb": (
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9)) for n in b"bcdefghijk"),
        "aliases repeat too much",
    ),
    "deep": (spec("[" * 5000 + "]" * 5000), "nested too deeply"),
    "a tag": (spec("!!python/name:os.system {}"), "tag"),
    "text": (b"hello", "not a mapping"),
    "an answer": (
        b'{"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "no such user"}',
        "kind: 'Status' is an API server's answer that holds no objects (no such user); take them from the",
    ),
    "an archive": (b"\x1f\x8b\x08\x00" + bytes(range(256)), "UTF-8"),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_a_file_that_is_wrong_is_named_with_the_reason_and_changes_nothing(
    place: Place, content: bytes, words: str
) -> None:
    place.put(content)
    faults = place.look()
    assert faults
    assert all(fault.startswith("a.yaml") for fault in faults)
    assert any(words in fault for fault in faults), faults
    assert enforced(place.engine.lowered) == enforced(place.before)
    place.put(GOOD.encode())
    assert not place.look()
    assert place.engine.lowered == place.before


def enforced(program: LoweredProgram) -> object:
    """Return what the two policies do; one with a bad name may stand beside them, allowing nothing."""
    kept = {i: p for i, p in program.policies.items() if i.policy.name in "ab" and i.policy.namespace == "x"}
    return kept, program.sets, {i: p.addresses for i, p in program.pods.items()}


def a_directory(file: Path) -> None:
    file.mkdir()


def a_loop(file: Path) -> None:
    file.symlink_to(file.name)


def a_pipe(file: Path) -> None:
    os.mkfifo(file)


def a_dangling_link(file: Path) -> None:
    file.symlink_to("nowhere")


@pytest.mark.parametrize("made", [a_loop, a_pipe, a_dangling_link])
def test_what_is_no_file_any_more_takes_nothing_away(place: Place, made: Callable[[Path], None]) -> None:
    place.file.unlink()
    made(place.file)
    (fault,) = place.look()
    assert fault.startswith("a.yaml: ")
    assert place.engine.lowered == place.before


def test_a_directory_named_like_a_manifest_is_one_of_manifests(place: Place) -> None:
    a_directory(place.directory / "c.yaml")
    write(place.directory / "c.yaml/n.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: y}}\n")
    assert not place.look()
    assert place.engine.namespaces == 2
    (place.directory / "c.yaml/loop").symlink_to("..")
    assert not place.look()


def test_a_file_that_may_not_be_read_takes_nothing_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    write(place.file, GOOD + "# touched\n")
    monkeypatch.setattr(Path, "open", refused)
    (fault,) = place.look()
    assert fault == "a.yaml: Permission denied; let the agent read the file"
    assert place.engine.lowered == place.before


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(place: Place) -> None:
    place.put(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert not place.look()
    assert place.engine.lowered == place.before


def test_an_invalid_pod_and_namespace_keep_their_last_good_versions(place: Place) -> None:
    write(
        place.directory / "n.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {a: b}}}\n"
    )
    place.look()
    write(
        place.directory / "n.yaml",
        "{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {a: B_}}}\n",
    )
    write(place.directory / "pod.yaml", POD.replace("10.0.0.1", "10.0.0.999"))
    place.look()
    faults = {kind: state.faults for kind, state in place.source.states().items()}
    assert any("metadata.labels[a]" in fault for fault in faults[Kind.NAMESPACE])
    assert any("status.podIP" in fault for fault in faults[Kind.POD])
    assert place.engine.lowered == place.before
    known = place.source._told
    assert {type(w.value) for (kind, _), w in known.items() if kind is not Kind.POLICY} == {Namespace, Pod}
    assert place.engine.local_pods()[0].addresses == (packed("10.0.0.1"),)
