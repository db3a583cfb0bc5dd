"""One object that is nested too deeply for a decoder keeps no other from being read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.model import Key, Kind
from agent.kube.shallow import DEPTH, shallow
from agent.kube.wire import Decoded, decode_page
from agent.sources.apiserver.proof import PagesProof, prove_line
from tests.lab.reading import decode_watch_line

LEVELS = 9000
"""API servers read 10,000, and store them in managedFields."""


def deep(levels: int, inner: bytes = b"1") -> bytes:
    return b'{"f:a":' * levels + inner + b"}" * levels


def policy(name: str, levels: int) -> bytes:
    meta = b'"name":"%s","namespace":"x","uid":"u","resourceVersion":"7"' % name.encode()
    fields = b'"managedFields":[{"fieldsV1":%s}]' % deep(levels)
    kind = b'"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1"'
    return b'{%s,"metadata":{%s,%s},"spec":{"podSelector":{}}}' % (kind, fields, meta)


def test_a_list_with_one_is_whole() -> None:
    head = (
        b'"kind":"NetworkPolicyList","apiVersion":"networking.k8s.io/v1","metadata":{"resourceVersion":"9"}'
    )
    items = b",".join((policy("a", 3), policy("b", LEVELS), policy("c", 3)))
    page = decode_page(Kind.POLICY, b'{%s,"items":[%s]}' % (head, items))
    PagesProof(Kind.POLICY).take(page)
    assert [item.key for item in page.items] == [Key("x", name) for name in "abc"]


@pytest.mark.parametrize("what", ["ADDED", "MODIFIED", "DELETED"])
def test_a_line_of_a_watch_with_one_is_read(what: str) -> None:
    line = b'{"type":"%s","object":%s}' % (what.encode(), policy("b", LEVELS))
    change = prove_line(Kind.POLICY, line, 1).change
    assert isinstance(change, Decoded)
    assert change.key == Key("x", "b")
    assert decode_watch_line(Kind.POLICY, line) == change


def test_what_is_kept_and_what_is_not() -> None:
    text = b'{"a":"{[{[\\"","b":' + deep(DEPTH - 1) + b',"c":' + deep(DEPTH) + b',"d":[1]}'
    found = shallow(text)
    assert json.loads(found)["a"] == '{[{["'
    assert deep(DEPTH - 1) in found
    assert deep(DEPTH - 1, b"null") in found
    assert found.endswith(b',"d":[1]}')


@pytest.mark.parametrize(
    "text", [deep(300)[:-1], deep(300)[:-280], deep(300) + b"}", b'{"a":' * 300, b"{" * 90]
)
def test_what_is_not_whole_does_not_become_so(text: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(shallow(text))


@given(st.binary(max_size=200))
def test_any_bytes_that_are_not_deep_stay_as_they_are(data: bytes) -> None:
    assert shallow(data) == data


@given(st.recursive(st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_any_json_that_is_not_deep_stays_as_it_is(data: object) -> None:
    text = json.dumps(data).encode()
    assert shallow(text) == text
