"""``render``: the same manifests give the same text, for the node asked for, and nothing is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.commands import cli
from agent.settings import SETTINGS
from tests.docs import ROOT

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec:
  {node}
  containers: [{{name: c}}]
status: {{podIP: {address}}}
"""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        for variable in setting.environment:
            monkeypatch.delenv(variable, raising=False)


def render(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["render", "--manifests", str(directory), *arguments])


@pytest.fixture
def two_nodes(tmp_path: Path) -> Path:
    for name, address in (("a", "10.0.1.1"), ("b", "10.0.2.1")):
        (tmp_path / f"{name}.yaml").write_text(
            POD.format(name=name, node=f"nodeName: n-{name}", address=address)
        )
    shutil.copy(ROOT / "examples/01-default-deny.yaml", tmp_path)
    return tmp_path


def test_examples_render_whole_and_the_same_each_time() -> None:
    first, second = render(ROOT / "examples"), render(ROOT / "examples")
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    assert first.stdout.startswith("# node demo\n# ipset restore\ncreate KUBE-")
    assert "# iptables-restore --noflush\n*filter\n" in first.stdout
    assert "# ip6tables-restore --noflush\n*filter\n" in first.stdout
    assert "10.244.1.13" in first.stdout
    assert "fd00:10:244:1::13" in first.stdout


def test_one_node_needs_no_name_and_several_are_listed(two_nodes: Path) -> None:
    result = render(two_nodes)
    assert result.exit_code == 2
    assert "choose one with --node-name: n-a, n-b." in result.output
    (two_nodes / "b.yaml").unlink()
    assert render(two_nodes).stdout.startswith("# node n-a\n")


def test_a_node_that_is_not_there_ends_with_1_and_the_nearest(two_nodes: Path) -> None:
    result = render(two_nodes, "--node-name", "n-aa")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: no node n-aa in the manifests; did you mean n-a? there are: n-a, n-b\n"
    assert render(two_nodes, "--node-name", "n-a").stderr == ""


def test_a_node_without_pods_that_is_an_object_gets_its_empty_rules(two_nodes: Path) -> None:
    (two_nodes / "node.yaml").write_text("{apiVersion: v1, kind: Node, metadata: {name: n-c}}\n")
    result = render(two_nodes, "--node-name", "n-c")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("# node n-c\n")


def test_only_what_the_node_needs_is_rendered(two_nodes: Path) -> None:
    text = render(two_nodes, "--node-name", "n-b").stdout
    assert "10.0.2.1" in text
    assert "10.0.1.1" not in text


def test_the_node_can_come_from_the_environment(two_nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "n-b")
    assert render(two_nodes).stdout.startswith("# node n-b\n")


def test_pods_without_a_node_are_explained(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POD.format(name="a", node="", address="10.0.0.1"))
    result = render(tmp_path)
    assert result.exit_code == 2
    assert "spec.nodeName" in result.output


def test_what_is_refused_is_named_and_the_rest_is_printed(two_nodes: Path) -> None:
    (two_nodes / "bad.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: bad, namespace: shop}\nspec: {podSelector: {}, ingres: []}\n"
    )
    result = render(two_nodes, "--node-name", "n-a")
    assert result.exit_code == 1
    assert "ingres" in result.stderr
    assert result.stdout.startswith("# node n-a\n")


def test_settings_of_the_rules_are_heeded() -> None:
    text = render(
        ROOT / "examples",
        "--mark-ingress",
        "0x100",
        "--allowed-packets",
        "accept",
        "--denied-packets",
        "reject",
    ).stdout
    assert "0x100/0x" in text
    assert "tcp-reset" in text
    assert "0x20000" not in text


def test_one_family_alone() -> None:
    text = render(ROOT / "examples", "--families", "ipv4").stdout
    assert "ip6tables" not in text
    assert "fd00:" not in text


def test_json() -> None:
    document = json.loads(render(ROOT / "examples", "--json").stdout)
    assert document["node"] == "demo"
    assert document["isolatedPods"]["shop/db"] == {
        "addresses": ["10.244.1.13", "fd00:10:244:1::13"],
        "egress": ["shop/only-dns-out"],
        "ingress": ["shop/api-to-db", "shop/default-deny"],
    }
    assert document["policies"]["egress"] == ["shop/api-to-partner", "shop/only-dns-out", "shop/out-by-name"]
    assert set(document["iptables"]) == {"ipv4", "ipv6"}


def test_a_policy_over_budget_is_named_and_renders_no_rule() -> None:
    result = render(ROOT / "examples", "--policy-budget", "rules=1", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["overBudget"]["shop/api-to-db"].startswith("it needs 4 rules")
    assert "shop/api-to-db" not in document["policies"]["ingress"]
    assert "shop/default-deny" in document["policies"]["ingress"]
    assert (
        "over budget: shop/api-to-db isolates its pods and allows nothing: it needs 4 rules" in result.stderr
    )
