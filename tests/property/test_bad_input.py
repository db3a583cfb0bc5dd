"""Whatever becomes of a policy's text, its pods are never more open than its last good version left them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hypothesis import settings
from hypothesis import strategies as st

from agent.kube.events import Event, Invalid, Problem, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy
from agent.kube.wire import Decoded, Unreadable
from agent.net import Direction
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from agent.sources.manifests.source import ManifestSource
from agent.spec.verdict import Packet
from tests.build import upsert
from tests.lab.reading import decode_watch_line, read_manifests
from tests.property.choices import tried
from tests.property.clusters import RandomCluster, clusters
from tests.property.interpreter import program_allows
from tests.property.mutants import mutants, spoilt_texts
from tests.property.test_compiler import snapshot
from tests.property.to_yaml import document, to_yaml
from tests.property.words import HERE

PROBES = 40

_FILES = max(settings().max_examples // 2, 1)
"""Reading directories takes longer than all else here."""


def allowed(program: LoweredProgram, probes: Sequence[Packet]) -> set[tuple[Direction, Packet]]:
    return {(d, p) for d in Direction for p in probes if program_allows(program, d, p)}


def engine_of(cluster: RandomCluster, without: Key | None = None) -> Engine:
    engine = Engine(HERE)
    kept = [o for o in cluster.objects if not (isinstance(o, NetworkPolicy) and o.key == without)]
    engine.apply(upsert(*kept), 0.0)
    return engine


def told(mutant: dict[str, Any]) -> Invalid | None:
    """Return what an API server's object is refused with, None when it is not."""
    line = json.dumps({"type": "MODIFIED", "object": mutant}).encode()
    decoded = decode_watch_line(Kind.POLICY, line)
    if isinstance(decoded, Unreadable):
        meta = mutant.get("metadata")
        assert (
            not isinstance(meta, dict)
            or not all(isinstance(meta.get(name, ""), str) for name in ("name", "namespace"))
            or not meta.get("name")
        )
        return None
    assert isinstance(decoded, Decoded)
    assert isinstance(decoded.event, Upsert | Invalid)
    return decoded.event if isinstance(decoded.event, Invalid) else None


def says_what(problems: tuple[Problem, ...]) -> bool:
    return bool(problems) and all(problem.message for problem in problems)


def selector_is_whole(mutant: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether nobody touched what an object is and which pods it selects."""
    spec, meta = mutant.get("spec"), mutant.get("metadata")
    if not isinstance(spec, dict) or not isinstance(meta, dict):
        return False
    named = all(meta.get(name) == whole["metadata"][name] for name in ("name", "namespace"))
    return named and "podSelector" in spec and spec["podSelector"] == whole["spec"]["podSelector"]


def check_closed(closed: NetworkPolicy | None, policy: NetworkPolicy, mutant: dict[str, Any]) -> None:
    assert closed is not None
    assert (closed.key, closed.pod_selector) == (policy.key, policy.pod_selector)
    assert not closed.ingress
    assert not closed.egress
    types = ["Ingress"] * (policy.ingress is not None) + ["Egress"] * (policy.egress is not None)
    if mutant["spec"].get("policyTypes") == types:
        for direction in Direction:
            assert policy.rules(direction) is None or closed.rules(direction) is not None


@tried(clusters(from_files=True), st.data())
def test_a_policy_that_an_api_server_tells_broken_opens_nothing(
    cluster: RandomCluster, data: st.DataObject
) -> None:
    policy = data.draw(st.sampled_from(cluster.policies))
    whole = document(policy)
    mutant = data.draw(mutants(whole))
    invalid = told(mutant)
    if invalid is None:
        return
    assert says_what(invalid.problems)
    probes = list(cluster.probes(PROBES))
    engine = engine_of(cluster)
    before = snapshot(engine.lowered)
    engine.apply([invalid], 1.0)
    if invalid.key == policy.key:
        assert engine.lowered == before
    assert allowed(engine.lowered, probes) <= allowed(before, probes)
    # Where no version was ever good, its pods are closed.
    newcomer = engine_of(cluster, without=policy.key)
    before = snapshot(newcomer.lowered)
    newcomer.apply([invalid], 1.0)
    assert allowed(newcomer.lowered, probes) <= allowed(before, probes)
    if selector_is_whole(mutant, whole):
        check_closed(invalid.closed, policy, mutant)


class Node:
    """A node that reads manifests: one policy in a file of its own, all else in another."""

    def __init__(self, directory: Path, cluster: RandomCluster, policy: NetworkPolicy, name: str) -> None:
        self.file = directory / name
        others = [found for found in cluster.objects if found is not policy]
        (directory / "others.yaml").write_text(to_yaml(others))
        self.source = ManifestSource(directory, directory.parent / "state")
        self.source.load()
        self.engine = Engine(HERE)

    def look(self) -> list[Event]:
        events: list[Event] = []
        self.source.refresh(events.extend)
        self.engine.apply(events, 0.0)
        return events

    def write(self, text: bytes) -> None:
        temporary = self.file.with_name(".new")
        temporary.write_bytes(text)
        temporary.replace(self.file)

    @property
    def faults(self) -> tuple[str, ...]:
        return self.source.states()[Kind.POLICY].faults


def text_of(data: object, name: str) -> bytes:
    text = json.dumps(data) if name.endswith(".json") else yaml.safe_dump(data, sort_keys=False)
    return f"{text}\n".encode()


def refused(cluster: RandomCluster, policy: NetworkPolicy, name: str, text: bytes) -> bool:
    """Have a node read a policy whole, then as ``text``; return whether that was refused."""
    probes = list(cluster.probes(PROBES))
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "manifests"
        directory.mkdir()
        node = Node(directory, cluster, policy, name)
        node.write(text_of(document(policy), name))
        node.look()
        assert not node.faults
        before = snapshot(node.engine.lowered)
        node.write(text)
        node.look()
        if not node.faults:
            return False
        assert all(name in fault for fault in node.faults)
        assert allowed(node.engine.lowered, probes) <= allowed(before, probes)
        # A restart finds what it had; another text that is refused changes nothing again.
        again = Node(directory, cluster, policy, name)
        again.look()
        assert allowed(again.engine.lowered, probes) <= allowed(before, probes)
        node.write(b"a: [")
        node.look()
        assert allowed(node.engine.lowered, probes) <= allowed(before, probes)
        # Where it was never good, what can be read of it is closed, and nothing is opened. Said twice in one
        # text it is good once, and refused the second time.
        node.write(text)
        objects, lines = read_manifests(directory)
        assert lines
        newcomer = Engine(HERE)
        newcomer.apply(upsert(*objects), 0.0)
        without = engine_of(cluster, without=None if policy in objects else policy.key)
        assert allowed(newcomer.lowered, probes) <= allowed(without.lowered, probes)
    return True


@tried(clusters(from_files=True), st.data(), max_examples=_FILES)
def test_a_manifest_that_is_refused_opens_nothing(cluster: RandomCluster, data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(cluster.policies))
    whole = document(policy)
    mutant = data.draw(mutants(whole))
    name = data.draw(st.sampled_from(("policy.yaml", "policy.json")))
    if not refused(cluster, policy, name, text_of(mutant, name)) or not selector_is_whole(mutant, whole):
        return
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / name).write_bytes(text_of(mutant, name))
        objects, _ = read_manifests(Path(temporary))
    if all(mutant.get(name) == whole[name] for name in ("apiVersion", "kind")):
        closed = [found for found in objects if isinstance(found, NetworkPolicy)]
        check_closed(closed[0] if closed else None, policy, mutant)


@tried(clusters(from_files=True), st.data(), max_examples=_FILES)
def test_a_text_that_is_refused_opens_nothing(cluster: RandomCluster, data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(cluster.policies))
    name = data.draw(st.sampled_from(("policy.yaml", "policy.json")))
    refused(cluster, policy, name, data.draw(spoilt_texts(text_of(document(policy), name))))
