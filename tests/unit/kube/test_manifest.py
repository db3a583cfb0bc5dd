"""YAML and JSON text becomes objects as Kubernetes reads it."""

from __future__ import annotations

import pytest

from agent.kube.manifest import read_text
from agent.kube.model import Key, Kind, NetworkPolicy, Pod
from agent.kube.text import UnreadableError

POLICY = "kind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n"


def names(text: str, *, is_json: bool = False) -> list[tuple[Kind, Key]]:
    return [(m.kind, m.key) for m in read_text(text.encode(), is_json=is_json).manifests]


@pytest.mark.parametrize("version", ["networking.k8s.io/v1", "extensions/v1beta1"])
def test_both_versions_of_a_policy_mean_the_same(version: str) -> None:
    (manifest,) = read_text(f"apiVersion: {version}\n{POLICY}".encode()).manifests
    assert manifest.value == NetworkPolicy("default", "a", ingress=())


def test_several_documents_empty_ones_and_their_lines() -> None:
    first = f"---\n---\napiVersion: networking.k8s.io/v1\n{POLICY}---\n# nothing\n---\n"
    manifests = read_text(f"{first}apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\n".encode()).manifests
    assert [(m.kind, m.line) for m in manifests] == [(Kind.POLICY, 3), (Kind.POD, 10)]


def test_a_list_in_a_list_is_read_as_kubectl_reads_it() -> None:
    """Two dumps put together by ``jq -s '{apiVersion: "v1", kind: "List", items: .}'`` are such a list."""
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: %s}}"
    inner = f"{{apiVersion: v1, kind: List, items: [{pod % 'b'}, {pod % 'c'}]}}"
    pods = "{apiVersion: v1, kind: PodList, items: [{metadata: {name: d}}]}"
    text = f"{{apiVersion: v1, kind: List, items: [{pod % 'a'}, {inner}, {pods}, {pod % 'e'}]}}"
    assert [key.name for _, key in names(text)] == list("abcde")
    deep = '{"apiVersion":"v1","kind":"List","items":[' * 240 + pod.replace("%s", "p") + "]}" * 240
    assert [key.name for _, key in names(deep)] == ["p"]


def test_lists_of_every_kind() -> None:
    text = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: v1, kind: Service, metadata: {name: s}}
---
apiVersion: v1
kind: PodList
metadata: {resourceVersion: "1"}
items: [{metadata: {name: p, namespace: b}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicyList
items: [{metadata: {name: n}, spec: {}}]
---
{apiVersion: v1, kind: NamespaceList, items: null}
"""
    assert names(text) == [
        (Kind.NAMESPACE, Key("", "a")),
        (Kind.POD, Key("b", "p")),
        (Kind.POLICY, Key("default", "n")),
    ]
    assert read_text(text.encode()).ignored == ("v1 Service",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "line 2: key 'a' is written twice"),
        ("x: {b: 1, b: 2}", "written twice; keep one of them"),
        (
            f"apiVersion: v1\n{POLICY}apiVersion: v1\n{POLICY}",
            "'apiVersion' is written twice; write --- between",
        ),
        ("a: [", "line 2"),
        ("[]", "line 1: document: not a mapping"),
        ("kind: Pod", "apiVersion: missing"),
        ("apiVersion: v1", "kind: missing"),
        ("{apiVersion: v1, kind: pod}", "write apiVersion v1, kind Pod"),
        (
            "{apiVersion: v1, kind: NetworkPolicy}",
            "write apiVersion networking.k8s.io/v1, kind NetworkPolicy",
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolcy}",
            "may be a NetworkPolicy; write apiVersion networking",
        ),
        ("{apiVersion: v1, kind: List, items: {}}", "items: not a list"),
        (
            "{apiVersion: v1, kind: Status, status: Failure, message: Unauthorized, code: 401}",
            r"kind: 'Status' is an API server's answer that holds no objects \(Unauthorized\); take",
        ),
        ("{apiVersion: meta.k8s.io/v1, kind: Table, rows: []}", "'Table' is an API server's answer that hol"),
        ("{apiVersion: meta.k8s.io/v1, kind: PartialObjectMetadataList, items: []}", "holds no objects; tak"),
        ("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicyList, spec: {}}", "write NetworkPolicy"),
        (
            "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: [{kind: Pod}]}]}",
            r"items\[0\].items\[0\].apiVersion: missing",
        ),
        ("{apiVersion: v1, kind: List, items: [5]}", r"items\[0\]: not a mapping"),
        ("{apiVersion: v1, kind: Pod, metadata: 5}", "metadata"),
        ("&a [*a]", "line 1"),
        ("{[a]: b}", "not a string"),
        ("a: !!python/object:os.system {}", "line 1: tag .* is not known here"),
    ],
)
def test_a_text_that_cannot_be_read_whole_says_where_and_why(text: str, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        read_text(text.encode())


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"a": 1,\n "a": 2}', "written twice"), ('{"a":\n', "line 2"), ("", "line 1"), ("\udcff", "UTF-8")],
)
def test_json_text_that_cannot_be_read_whole(text: str, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        read_text(text.encode("utf-8", "surrogateescape"), is_json=True)


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        ("networking.k8s.io/v2", "NetworkPolicy", "apiVersion: 'networking.k8s.io/v2' of x/a is unknown"),
        ("networking.k8.io/v1", "NetworkPolicy", "write apiVersion networking.k8s.io/v1, kind"),
        ("networking/v1", "NetworkPolicy", "write apiVersion networking.k8s.io/v1"),
        ("apps/v1", "Pod", "write apiVersion v1, kind Pod; keep other products' objects elsewhere"),
        ("v2", "Namespace", "write apiVersion v1, kind Namespace"),
        ("node.k8s.io/v1", "Node", "write apiVersion v1, kind Node"),
        ("k8s.networking.io/v1", "NetworkPolicy", "apiVersion: 'k8s.networking.io/v1' of x/a is unknown"),
        ("networking.kubernetes.io/v1", "NetworkPolicy", "write apiVersion networking.k8s.io/v1"),
        ("networking.k8.io/v1", "NetworkPolicies", "kind: 'networking.k8.io/v1 NetworkPolicies' of x/a is"),
        ("networking.k8s.io/v1", "FQDNNetworkPolicy", "may be a NetworkPolicy"),
        ("networking.k8s.io/v1", "NetworkPolcyList", "may be a NetworkPolicyList"),
        ("v1", "PodLists", "may be a PodList"),
        ("policy/v1", "NetworkPolicy", "write apiVersion networking.k8s.io/v1"),
        ("v2", "List", "write apiVersion v1, kind List"),
    ],
)
def test_a_kind_of_ours_in_an_unknown_version_is_never_passed_over(
    version: str, kind: str, words: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text(f"{{apiVersion: {version}, kind: {kind}, metadata: {{name: a, namespace: x}}}}".encode())
    assert words in str(caught.value)
    assert "line 1" in str(caught.value)


def test_every_entry_that_cannot_be_read_is_named_up_to_a_bound() -> None:
    wrong = "{apiVersion: networking.k8s.io/v2, kind: NetworkPolicy, metadata: {name: a%d}}"
    lost = "{metadata: {name: b}}"
    with pytest.raises(UnreadableError) as caught:
        read_text("\n---\n".join([wrong % 1, "{apiVersion: v1, kind: Secret}", lost, wrong % 2]).encode())
    assert [line in str(caught.value) for line in (" of a1 is unknown", " of a2 is unknown")] == [True, True]
    assert "; line 5: apiVersion: missing; say what the object is; line 7: apiVersion: " in str(caught.value)
    items = ", ".join(wrong % number for number in range(9))
    with pytest.raises(UnreadableError) as caught:
        read_text(f"{{apiVersion: v1, kind: List, items: [{items}]}}".encode())
    assert str(caught.value).count("is unknown") == 5
    assert "items[4].apiVersion" in str(caught.value)
    assert str(caught.value).endswith("; and 4 more")


@pytest.mark.parametrize(
    "type_",
    [
        "cilium.io/v2 CiliumNetworkPolicy",
        "crd.projectcalico.org/v1 GlobalNetworkPolicy",
        "policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy",
        "storage.k8s.io/v1 CSINode",
        "v1 PodTemplate",
        "metrics.k8s.io/v1beta1 PodMetrics",
        "metrics.k8s.io/v1beta1 NodeMetricsList",
        "policy/v1 PodDisruptionBudget",
        "karpenter.sh/v1 NodePool",
        "networking.gke.io/v1alpha3 FQDNNetworkPolicy",
        "networking.gke.io/v1 NetworkPolicy",
        "networking.istio.io/v1 NetworkPolicys",
        "networking.k8s.aws/v1alpha1 PolicyEndpoint",
        "networking.x-k8s.io/v1 NetworkPolicy",
        "k8s.cni.cncf.io/v1beta1 MultiNetworkPolicy",
        "crd.antrea.io/v1beta1 NetworkPolicy",
        "crd.projectcalico.org/v1 NetworkPolicy",
        "projectcalico.org/v3 NetworkPolicy",
        "projectcalico.org/v3 NetworkPolicyList",
        "net.example/v1 NetworkPolicies",
    ],
)
def test_kinds_of_other_names_are_passed_over(type_: str) -> None:
    version, kind = type_.split()
    assert read_text(f"{{apiVersion: {version}, kind: {kind}}}".encode()).ignored == (type_,)


@pytest.mark.parametrize("kind", ["Ingress", "IngressClass"])
def test_other_kinds_are_passed_over(kind: str) -> None:
    reading = read_text(f"apiVersion: networking.k8s.io/v1\nkind: {kind}\n".encode())
    assert (reading.manifests, reading.ignored) == ((), (f"networking.k8s.io/v1 {kind}",))


def test_scalars_mean_what_they_mean_to_kubernetes() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata:
  name: p
  creationTimestamp: 2026-01-02T03:04:05Z
  labels: {1: a, true: b, time: 12:30:45, date: 2026-01-02, v: "1.10"}
"""
    (manifest,) = read_text(text.encode()).manifests
    assert manifest.value is None
    assert [p.field for p in manifest.problems] == ["metadata.labels[time]"]
    (manifest,) = read_text(text.replace("12:30:45", "1_2").encode()).manifests
    assert [p.field for p in manifest.problems] == ["metadata.labels[time]"]
    (manifest,) = read_text(text.replace("12:30:45", "x").encode()).manifests
    assert isinstance(manifest.value, Pod)
    assert manifest.value.labels == {"1": "a", "true": "b", "time": "x", "date": "2026-01-02", "v": "1.10"}


@pytest.mark.parametrize("generation", ["-1", "9223372036854775808", "1" + "0" * 400, "many"])
def test_a_policy_of_an_impossible_generation_isolates_what_it_selects(generation: str) -> None:
    text = f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p, generation: {generation}}}
spec: {{podSelector: {{}}, ingress: [{{}}]}}
"""
    (manifest,) = read_text(text.encode()).manifests
    assert manifest.value is None
    assert [p.field for p in manifest.problems] == ["metadata.generation"]
    assert manifest.closed is not None
    (manifest,) = read_text(text.replace(generation, "7").encode()).manifests
    assert isinstance(manifest.value, NetworkPolicy)
    assert manifest.value.generation == 7


def test_anchors_and_merge_keys() -> None:
    text = """
apiVersion: v1
kind: List
items:
- &base {apiVersion: v1, kind: Pod, metadata: {name: a}}
- {<<: *base, metadata: {name: b}}
"""
    assert names(text) == [(Kind.POD, Key("default", "a")), (Kind.POD, Key("default", "b"))]
