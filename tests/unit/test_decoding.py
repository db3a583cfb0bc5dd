"""JSON of others: whatever it is, it is refused in one way, also where it is nested without end."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import agent
from agent.decoding import UndecodableError, decode
from agent.history import confirmed
from agent.history.store import StoreError
from agent.kube import wire
from agent.kube.manifest import read_text
from agent.kube.model import Kind
from agent.kube.text import UnreadableError
from agent.lint.positions import Positions
from agent.observe import snapshot
from agent.observe.flows import flow
from agent.observe.history import route as history
from agent.observe.replay import here
from agent.observe.status import policy
from agent.observe.status.text import checks_of
from agent.runtime.guard import NoNetworksError, choose_networks
from agent.settings import resolve
from agent.sources.cni import result
from agent.sources.manifests.lastgood import LastGood
from tests.build import network

DEEP = b"[" * 100_000
"""Nested more deeply than any reader follows; unfinished, as a reader that gives up early never sees."""
DEEP_OBJECT = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize("body", [DEEP, DEEP_OBJECT, b"", b"{", b"\xff", b'"\xff"', b"[1]"])
def test_what_cannot_be_read_is_refused_in_one_way(body: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode(body, dict[str, int])


@pytest.mark.parametrize(
    "read",
    [
        snapshot.decode,
        history.decode,
        policy.decode,
        here.decode,
        flow.from_json,
        checks_of,
    ],
    ids=lambda read: f"{read.__module__}.{read.__name__}",
)
def test_answers_of_an_agent_that_are_nested_without_end_are_refused(read: Callable[[bytes], object]) -> None:
    for body in (DEEP, DEEP_OBJECT):
        with pytest.raises(UndecodableError):
            read(body)


def test_what_others_keep_and_send_is_refused_when_it_is_nested_without_end(tmp_path: Path) -> None:
    for body in (DEEP, DEEP_OBJECT):
        assert result.decode(body, 1) is None
        assert isinstance(wire.open_line(body), wire.Unreadable)
        for is_json in (True, False):
            with pytest.raises(UnreadableError, match="nested too deeply"):
                read_text(body, is_json=is_json)
        assert Positions(body).find(0, "a") is None
        (tmp_path / confirmed.NAME).write_bytes(body)
        with pytest.raises(StoreError, match=str(confirmed.NAME)):
            confirmed.read(tmp_path)


def test_a_list_that_is_nested_without_end_is_no_list() -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.decode_page(Kind.POD, DEEP)


def test_a_last_good_version_that_is_nested_without_end_is_left_out(tmp_path: Path) -> None:
    kept = LastGood(tmp_path, Path("/manifests"))
    kept.store("a.yaml", ())
    assert list(kept.load()) == ["a.yaml"]
    (next(tmp_path.rglob("*.json")).parent / "spoiled.json").write_bytes(DEEP)
    assert list(kept.load()) == ["a.yaml"]


def test_a_guard_leaves_out_a_configuration_that_it_cannot_read_and_names_it(tmp_path: Path) -> None:
    settings = resolve({"state_dir": str(tmp_path / "state")}, {}, hostname=lambda: "near")
    spoiled = tmp_path / "10-spoiled.conflist"
    spoiled.write_bytes(DEEP_OBJECT)
    with pytest.raises(NoNetworksError, match="--pod-networks, or correct the file") as told:
        choose_networks(settings, tmp_path)
    assert f"{spoiled} cannot be read: it is nested too deeply" in str(told.value)
    ipam = {"type": "host-local", "subnet": "10.1.2.0/24"}
    (tmp_path / "20-good.conf").write_text(json.dumps({"ipam": ipam}))
    assert choose_networks(settings, tmp_path).networks == {network("10.1.2.0/24")}


_READERS = {"kube", "sources/cni/result.py", "decoding.py"}
"""Who decodes JSON by itself, since much comes; each refuses what is nested too deeply, as tested above."""


def test_all_others_decode_json_by_the_one_function() -> None:
    root = Path(agent.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if {name.parts[0], str(name)} & _READERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                *("json.loads", "json.load", "msgspec.json.decode", "msgspec.json.Decoder"),
                *("yaml.safe_load", "yaml.load"),
            ):
                found.add(f"{name}: {ast.unparse(node)}")
    # The kubeconfig reader catches RecursionError itself: YAML has no such function.
    assert found == {"sources/apiserver/kubeconfig.py: yaml.safe_load"}
