"""Manifests are held to what a create is held to, and every problem names field, fault and remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.kube.manifest import Manifest, read_text
from agent.kube.model import Namespace, NetworkPolicy, Pod, Selector
from agent.kube.text import UnreadableError
from tests.unit.kube import admission
from tests.unit.kube.admission import block, policy, port, rule, selector


def read(data: Any) -> Manifest:
    (manifest,) = read_text(json.dumps(data).encode(), is_json=True).manifests
    return manifest


@pytest.mark.parametrize("data", admission.ACCEPTED, ids=lambda d: json.dumps(d)[:60])
def test_what_a_create_accepts_is_accepted(data: Any) -> None:
    assert read(data).problems == ()
    assert read(data).value is not None


@pytest.mark.parametrize("data", admission.REFUSED, ids=lambda d: json.dumps(d)[:60])
def test_what_a_create_refuses_is_refused_with_field_and_remedy(data: Any) -> None:
    problems = read(data).problems
    assert problems
    for problem in problems:
        assert problem.field, problem
        assert "; " in problem.message or ", " in problem.message, problem


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (port(port=80, endPort=79), "spec.ingress[0].ports[0].endPort", "79 is less than port 80"),
        (port(port="80"), "spec.ingress[0].ports[0].port", "remove the quotes"),
        (rule(form=[]), "spec.ingress[0].form", "did you mean from?"),
        (policy({"ingres": []}), "spec.ingres", "did you mean ingress?"),
        (block("10.0.0.1/8"), "spec.ingress[0].from[0].ipBlock.cidr", "10.0.0.0/8 for the block"),
        (block("010.0.0.0/8"), "spec.ingress[0].from[0].ipBlock.cidr", "write 10.0.0.0/8"),
        (block("::ffff:10.0.0.0/104"), "spec.ingress[0].from[0].ipBlock.cidr", "write 10.0.0.0/8"),
        (
            block("10.0.0.0/8", "11.0.0.0/16"),
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "inside 10.0.0.0/8",
        ),
        (selector(matchLabels={"a": True}), "spec.podSelector.matchLabels[a]", "put it in quotes"),
        (policy({}, name="A"), "metadata.name", "lower-case"),
        (admission.pod({"hostnetwork": True}), "spec.hostnetwork", "did you mean hostNetwork?"),
    ],
)
def test_a_problem_names_field_fault_and_remedy(data: Any, field: str, words: str) -> None:
    assert [(p.field, True) for p in read(data).problems if words in p.message] == [(field, True)]


def test_an_invalid_policy_closes_what_it_selects_in_the_directions_it_names() -> None:
    closed = read(
        policy(
            {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Egress"], "egress": [{"too": []}]}
        )
    ).closed
    assert closed is not None
    assert str(closed.pod_selector) == "a=b"
    assert (closed.ingress, closed.egress) == (None, ())


@pytest.mark.parametrize("spec", [{"policyTypes": ["egres"]}, {"policyTypes": 1}, {"policyType": ["Egress"]}])
def test_an_invalid_policy_whose_types_cannot_be_read_closes_both_directions(spec: Any) -> None:
    closed = read(policy({"podSelector": {}, **spec})).closed
    assert closed is not None
    assert (closed.ingress, closed.egress) == ((), ())


@pytest.mark.parametrize(
    "spec", [{"podSelector": {"matchLabel": {}}}, {"podSelecto": {}}, "junk", {"podSelector": []}]
)
def test_an_invalid_policy_whose_selector_cannot_be_read_closes_nothing(spec: Any) -> None:
    manifest = read(policy(spec))
    assert manifest.problems
    assert manifest.closed is None


def test_a_policy_with_wrong_metadata_closes_its_pods() -> None:
    closed = read(policy({"policyTypes": ["Ingress"]}, bogus=1)).closed
    assert closed == NetworkPolicy("default", "a", Selector(), (), None)


def test_a_namespace_always_has_its_name_as_label() -> None:
    value = read(admission.namespace("x", labels={"kubernetes.io/metadata.name": "y", "a": "b"})).value
    assert value == Namespace("x", {"a": "b", "kubernetes.io/metadata.name": "x"})


@pytest.mark.parametrize(
    ("annotation", "isolated"),
    [('{"ingress":{"isolation":"DefaultDeny"}}', True), ("{}", False), ('{"ingress":null}', False)],
)
def test_the_old_annotation_isolates_a_namespace(annotation: str, isolated: bool) -> None:
    key = "net.beta.kubernetes.io/network-policy"
    value = read(admission.namespace("x", annotations={key: annotation})).value
    assert isinstance(value, Namespace)
    assert value.ingress_isolated is isolated


@pytest.mark.parametrize("annotation", ["", "nonsense", '{"ingress":{"isolation":"defaultdeny"}}', "[]"])
def test_an_old_annotation_that_is_not_understood_is_a_problem(annotation: str) -> None:
    key = "net.beta.kubernetes.io/network-policy"
    manifest = read(admission.namespace("x", annotations={key: annotation}))
    assert manifest.problems
    assert manifest.closed == NetworkPolicy("x", key, ingress=())
    assert read(admission.namespace("X", annotations={key: "{}"})).closed is None


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ({"podIP": "10.0.0.01"}, "status.podIP"),
        ({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}]}, "status.podIP"),
        ({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}, "status.podIPs[1].ip"),
        ({"podIPs": [{"ip": "::ffff:10.0.0.1"}]}, "status.podIPs[0].ip"),
        ({"podips": []}, "status.podips"),
        ({"phase": "Succeded"}, "status.phase"),
        ({"startTime": "yesterday"}, "status.startTime"),
    ],
)
def test_a_pod_status_is_checked_where_it_is_read(status: Any, field: str) -> None:
    assert [p.field for p in read({**admission.pod(), "status": status}).problems] == [field]


def test_a_pod_may_have_fields_that_are_not_read_and_no_containers() -> None:
    data = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"tolerations": [], "somethingNew": {"x": 1}},
        "status": {"podIP": "10.0.0.1", "startTime": "2026-01-01T02:00:00+02:00"},
    }
    value = read(data).value
    assert isinstance(value, Pod)
    assert (value.namespace, value.started) == ("default", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("name", [None, "", 5])
def test_an_object_without_a_name_makes_its_file_unreadable(name: Any) -> None:
    with pytest.raises(UnreadableError, match=r"metadata\.name"):
        read(policy({}, name=name))
