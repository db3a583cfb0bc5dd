"""Whatever the bytes, decoding gives objects or problems and never raises anything else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.events import Invalid, Upsert
from agent.kube.manifest import read_text
from agent.kube.model import Key, Kind
from agent.kube.policy import read_policy
from agent.kube.text import UnreadableError
from agent.kube.wire import Decoded, decode_page
from tests.lab.reading import decode_watch_line

_FIELDS = """
    apiVersion kind metadata name namespace labels annotations spec status podSelector matchLabels
    matchExpressions key operator values policyTypes ingress egress from to ports port endPort protocol
    ipBlock cidr except namespaceSelector containers initContainers restartPolicy containerPort
    hostNetwork nodeName podIP podIPs ip phase startTime addresses address podCIDR podCIDRs items
    creationTimestamp
"""
_WORDS = """
    v1 networking.k8s.io/v1 extensions/v1beta1 Pod Namespace NetworkPolicy Node List PodList a In NotIn
    Exists Ingress Egress TCP 10.0.0.0/8 10.1.0.0/16 ::/0 ::ffff:1.2.3.4/100 10.0.0.1 fd00::1 Always Running
"""

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(_WORDS.split())
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
keys = st.sampled_from(_FIELDS.split()) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=30,
)
kinds = st.sampled_from(
    [("v1", "Pod"), ("v1", "Namespace"), ("v1", "Node"), ("networking.k8s.io/v1", "NetworkPolicy")]
)
objects = st.builds(
    lambda kind, meta, spec, status: {
        "apiVersion": kind[0],
        "kind": kind[1],
        "metadata": {"name": "a", **meta},
        "spec": spec,
        "status": status,
    },
    kinds,
    st.dictionaries(keys, junk, max_size=4),
    junk,
    junk,
)


@given(st.sampled_from(Kind), junk | objects)
def test_any_json_from_a_server(kind: Kind, data: Any) -> None:
    body = json.dumps(data).encode()
    decode_watch_line(kind, body)
    found = decode_watch_line(kind, json.dumps({"type": "ADDED", "object": data}).encode())
    assert not isinstance(found, Decoded) or isinstance(found.event, Upsert | Invalid)
    with contextlib.suppress(msgspec.DecodeError):
        decode_page(kind, body)
    page = decode_page(kind, json.dumps({"items": [data, {"metadata": {"name": "z"}}]}).encode())
    assert len(page.items) + page.unreadable == 2


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    decode_watch_line(Kind.POD, data)
    for is_json in (False, True):
        with contextlib.suppress(UnreadableError):
            read_text(data, is_json=is_json)


@given(junk | objects)
def test_any_yaml_or_json_manifest(data: Any) -> None:
    for text, is_json in ((json.dumps(data), True), (yaml.safe_dump(data, allow_unicode=True), False)):
        with contextlib.suppress(UnreadableError):
            for manifest in read_text(text.encode(), is_json=is_json).manifests:
                assert (manifest.value is None) == bool(manifest.problems)


@given(st.text(max_size=60))
def test_any_yaml_text(text: str) -> None:
    with contextlib.suppress(UnreadableError):
        read_text(text.encode("utf-8", "surrogatepass"))


@given(junk, st.booleans())
def test_any_policy_spec(spec: Any, strict: bool) -> None:
    reading = read_policy(Key("a", "b"), spec, strict=strict)
    assert (reading.policy is None) == bool(reading.problems)
