"""What ``kubectl`` reads is read, in each form; what belongs to Helm and Kustomize is told from manifests."""

from __future__ import annotations

import json

import pytest

from agent.kube.manifest import Reading, read_text
from agent.kube.model import Key, Kind, NetworkPolicy
from agent.kube.text import UnreadableError

POLICY = (
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n"
)


def objects(*names: str) -> list[dict[str, object]]:
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]


def namespaces(reading: Reading) -> list[str]:
    return [manifest.key.name for manifest in reading.manifests]


@pytest.mark.parametrize("between", ["", "\n", "\n\n  \t", "\r\n"])
@pytest.mark.parametrize("name", ["x.json", "x.yaml"])
def test_json_objects_stand_one_after_another(between: str, name: str) -> None:
    text = between.join(json.dumps(one, indent=2) for one in objects("a", "b", "c")) + between
    reading = read_text(text.encode(), is_json=name.endswith(".json"), name=name)
    assert namespaces(reading) == ["a", "b", "c"]
    lines = [1, 7 + 1 * between.count("\n"), 13 + 2 * between.count("\n")]
    assert [m.line for m in reading.manifests] == lines


def test_a_json_list_of_objects_is_no_object() -> None:
    with pytest.raises(UnreadableError, match="document: not a mapping"):
        read_text(json.dumps(objects("a", "b")).encode(), is_json=True)


@pytest.mark.parametrize("cut", range(1, 60))
def test_json_that_is_cut_off_within_an_object_is_none(cut: int) -> None:
    text = "\n".join(json.dumps(one) for one in objects("a", "b"))
    with pytest.raises(UnreadableError):
        read_text(text[:-cut].encode(), is_json=True)


def test_flow_style_yaml_begins_like_json_and_is_read() -> None:
    text = "{apiVersion: v1, kind: Namespace, metadata: {name: a}} # a comment\n---\n" + POLICY
    assert namespaces(read_text(text.encode())) == ["a", "a"]


def test_yaml_in_a_file_called_json_is_read_and_broken_json_there_is_not_taken_for_yaml() -> None:
    assert namespaces(read_text(POLICY.encode(), is_json=True)) == ["a"]
    with pytest.raises(UnreadableError, match="correct the JSON"):
        read_text(b"{apiVersion: v1, kind: Namespace, metadata: {name: a}}", is_json=True)
    with pytest.raises(UnreadableError, match="nothing is in it"):
        read_text(b" \n", is_json=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("is_json", [False, True])
def test_byte_order_marks_and_windows_line_ends(encoding: str, is_json: bool) -> None:
    text = json.dumps(objects("a")[0], indent=1) if is_json else POLICY
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    raw = (mark + text.replace("\n", "\r\n")).encode(encoding)
    assert namespaces(read_text(raw, is_json=is_json)) == ["a"]


def test_utf_16_that_is_none_says_so() -> None:
    with pytest.raises(UnreadableError, match="write the file in UTF-8"):
        read_text(b"\xff\xfea")


@pytest.mark.parametrize(
    ("name", "text", "tool"),
    [
        ("kustomization.yaml", "resources: [a.yaml]\n", "Kustomize"),
        ("deep/kustomization.yml", "kind: Kustomization\nresources: []\n", "Kustomize"),
        ("Chart.yaml", "apiVersion: v2\nname: shop\n", "Helm"),
        ("values.yaml", "image: x\n", "Helm"),
        ("values-prod.yaml", "image: x\n", "Helm"),
        ("prod.values.yml", "# nothing\n", "Helm"),
        ("values.schema.json", '{"type": "object"}', "Helm"),
    ],
)
def test_files_of_tools_that_make_manifests_are_passed_over_by_name(name: str, text: str, tool: str) -> None:
    reading = read_text(text.encode(), is_json=name.endswith(".json"), name=name)
    assert reading == Reading((), (f"{name.rpartition('/')[2]} of {tool}",))
    if "nothing" not in text:
        with pytest.raises(UnreadableError, match="missing"):
            read_text(text.encode(), is_json=name.endswith(".json"), name="policy.yaml")


def test_a_policy_in_a_file_of_such_a_name_is_read() -> None:
    assert namespaces(read_text(POLICY.encode(), name="values.yaml")) == ["a"]
    with pytest.raises(UnreadableError, match="apiVersion: missing"):
        read_text(f"image: x\n---\n{POLICY}".encode(), name="values.yaml")
    for name in ("net-values.yaml", "kustomization.yaml", "Chart.yaml"):
        for field in ("apiVersion", "kind"):
            slip = "".join(line for line in POLICY.splitlines(keepends=True) if not line.startswith(field))
            with pytest.raises(UnreadableError, match=f"{field}: missing"):
                read_text(slip.encode(), name=name)
    with pytest.raises(UnreadableError, match="may be a NetworkPolicy"):
        read_text(POLICY.replace("NetworkPolicy", "NetworkPolcy").encode(), name="values.yaml")


def test_a_kustomization_with_its_kind_is_another_kind() -> None:
    text = b"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    assert read_text(text, name="x.yaml").ignored == ("kustomize.config.k8s.io/v1beta1 Kustomization",)


@pytest.mark.parametrize(
    "text",
    [
        "{{- if .Values.policy }}\n" + POLICY + "{{- end }}\n",
        POLICY.replace("name: a", "name: {{ .Release.Name }}"),
        POLICY.replace("{name: a}", '{name: "{{ .Release.Name }}"}'),
        POLICY.replace("{name: a}", '{name: a, namespace: "{{ .Values.namespace }}"}'),
        POLICY + "  {{- toYaml .Values.more | nindent 2 }}\n",
        POLICY.replace("{name: a}", '\n  name: {{ include "shop.name" . }}'),
    ],
)
def test_a_helm_template_is_called_one(text: str) -> None:
    with pytest.raises(
        UnreadableError, match=r"^line \d: a Helm template .* render it first with helm templ"
    ):
        read_text(text.encode())


def test_braces_in_a_text_are_no_template() -> None:
    text = POLICY.replace("{name: a}", '{name: a, annotations: {x: "{{ $labels.pod }} is slow"}}')
    (manifest,) = read_text(text.encode()).manifests
    assert isinstance(manifest.value, NetworkPolicy)


STORED = {"uid": "8d1c", "resourceVersion": "17"}


def policy(meta: dict[str, str], spec: object) -> bytes:
    return json.dumps(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "a", "namespace": "x", **meta},
            "spec": spec,
        }
    ).encode()


LOOSE = {
    "host bits": {"cidr": "10.0.0.7/8"},
    "leading zeros": {"cidr": "010.000.0.0/08"},
    "mapped": {"cidr": "::ffff:10.0.0.0/104"},
    "a loose except": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]},
}


@pytest.mark.parametrize("block", LOOSE.values(), ids=LOOSE)
def test_what_a_server_has_stored_is_read_leniently_from_a_dump_alone(block: object) -> None:
    spec = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]}
    (manifest,) = read_text(policy(STORED, spec), dump=True).manifests
    assert isinstance(manifest.value, NetworkPolicy)
    assert manifest.stored
    assert "ipBlock" in manifest.problems[0].field
    assert manifest.value.ingress
    assert str(manifest.value.ingress[0].peers[0].block.cidr) == "10.0.0.0/8"  # type: ignore[union-attr]
    # A directory that is enforced is held to what a create takes, whatever the object says of itself.
    assert read_text(policy(STORED, spec)).manifests[0].value is None
    for half in ({"uid": "8d1c"}, {"resourceVersion": "17"}, {"uid": "", "resourceVersion": "17"}, {}):
        assert read_text(policy(half, spec), dump=True).manifests[0].value is None


def test_what_no_server_can_have_meant_is_refused_from_a_dump_too() -> None:
    spec: object = {"podSelector": {}, "ingress": [{"ports": [{"port": []}]}]}
    (manifest,) = read_text(policy(STORED, spec), dump=True).manifests
    assert manifest.value is None
    assert manifest.closed == NetworkPolicy("x", "a", ingress=())
    assert manifest.problems


@pytest.mark.parametrize("name", ["A", "a b", "\x1b[31m"])
def test_a_stored_object_with_a_name_that_is_none_is_refused(name: str) -> None:
    (manifest,) = read_text(policy({**STORED, "name": name}, {"podSelector": {}}), dump=True).manifests
    assert manifest.value is None
    assert manifest.problems[0].field == "metadata.name"


def test_stored_pods_and_namespaces_are_read_as_their_server_tells_them() -> None:
    text = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": ""},
            "items": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "p", "namespace": "x", "labels": {"old": "a b!"}, **STORED},
                    "spec": {"nodeName": "n", "newField": 1},
                    "status": {"podIP": "010.0.0.9"},
                },
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": "x", "labels": {"old": "a b!"}, "new": 1, **STORED},
                },
            ],
        }
    ).encode()
    pod, namespace = read_text(text, dump=True).manifests
    assert [m.kind for m in (pod, namespace)] == [Kind.POD, Kind.NAMESPACE]
    assert (pod.key, namespace.key) == (Key("x", "p"), Key("", "x"))
    assert pod.value is not None
    assert pod.value.addresses == (bytes([10, 0, 0, 9]),)  # type: ignore[union-attr]
    assert namespace.value is not None
