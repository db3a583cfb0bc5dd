"""``explain``: what may be asked, what is answered, and with which exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.commands import cli
from agent.kube.model import Key
from agent.net import Protocol
from agent.observe import client
from agent.settings import SETTINGS
from tests.docs import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        for variable in setting.environment:
            monkeypatch.delenv(variable, raising=False)


def explain(*arguments: str, directory: Path = EXAMPLES) -> Result:
    return CliRunner().invoke(cli.main, ["explain", *arguments, "--manifests", str(directory)])


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A directory with the examples' cluster and no policy."""
    shutil.copy(EXAMPLES / "cluster.yaml", tmp_path)
    return tmp_path


def policy(directory: Path, name: str, spec: str, namespace: str = "shop") -> None:
    (directory / f"{name}.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


def test_the_exit_code_is_the_answer() -> None:
    assert explain("shop/api", "shop/db", "5432").exit_code == 0
    assert explain("shop/web", "shop/db", "5432").exit_code == 1
    assert explain("shop/web", "shop/nobody", "5432").exit_code == 2


def test_the_verdict_is_the_first_line_and_has_no_colour_in_a_file() -> None:
    result = explain("shop/api", "shop/db", "5432")
    assert result.stdout.startswith("shop/api to shop/db, TCP 5432: allowed\n")
    assert "\x1b" not in result.stdout


def test_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;32mallowed" in explain("shop/api", "shop/db", "5432").stdout


def test_a_pod_without_a_namespace_is_in_default() -> None:
    assert explain("visitor", "shop/web", "30000").stdout.startswith("default/visitor to shop/web, TCP 30000")


def test_an_address_of_a_pod_is_that_pod() -> None:
    result = explain("10.244.1.12", "fd00:10:244:1::13", "5432")
    assert result.exit_code == 2
    assert "10.244.1.12 has no address of the family that fd00:10:244:1::13 has" in result.stdout
    result = explain("10.244.1.12", "10.244.1.13", "5432")
    assert result.exit_code == 0
    assert result.stdout.startswith("10.244.1.12 (shop/api) to 10.244.1.13 (shop/db), TCP 5432: allowed")
    assert explain("::ffff:10.244.1.12", "10.244.1.13", "5432").stdout == result.stdout


def test_a_ports_name_is_that_of_the_destination() -> None:
    result = explain("shop/web", "shop/api", "http")
    assert result.exit_code == 0
    assert result.stdout.startswith("shop/web to shop/api, TCP 8080, which is http on shop/api: allowed\n")
    assert "its named ports: http/tcp, metrics/tcp" in explain("shop/web", "shop/api", "https").stdout


@pytest.mark.parametrize("service", ["53/udp", "53/UDP", "dns/Udp", "53/tcp", "53"])
def test_protocols_in_any_case_and_tcp_without_one(service: str) -> None:
    result = explain("shop/db", "kube-system/dns", service)
    assert result.exit_code == 0
    assert (Protocol.UDP if "u" in service.lower() else Protocol.TCP).name in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("shop/web", "shop/db", "0"), "0 is no port number"),
        (("shop/web", "shop/db", "65536"), "is no port number"),
        (("shop/web", "shop/db", "9" * 5000), "is no port number"),
        (("shop/web", "shop/db", "80-90"), "'80-90' is a range; ask about one port in it"),
        (("shop/web", "shop/db", ""), "'' is no port: write a number"),
        (("shop/web", "shop/db", "80/icmp"), "'icmp' is no protocol; write tcp, udp or sctp"),
        (("shop/web", "shop/db", "80/"), "'' is no protocol"),
        (("Shop/web", "shop/db", "80"), "'Shop/web' is neither namespace/pod"),
        (("a/b/c", "shop/db", "80"), "'a/b/c' is neither namespace/pod"),
        (("", "shop/db", "80"), "'' is neither namespace/pod"),
        (("fe80::1%eth0", "shop/db", "80"), "has a zone"),
    ],
)
def test_a_question_that_cannot_be_understood_is_explained(arguments: tuple[str, ...], words: str) -> None:
    result = explain(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_without_a_directory_the_agent_is_asked() -> None:
    result = CliRunner().invoke(cli.main, ["explain", "a", "b", "80", "--health-port", "1"])
    assert result.exit_code == 2
    assert "no agent answers at http://127.0.0.1:1" in result.output
    assert "--kubeconfig FILE, or --manifests PATH" in result.output


def test_an_agent_that_cannot_say_is_told_in_whole_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise client.UnreachableError("http://127.0.0.1:1 answers 503: ask again")

    monkeypatch.setattr(client, "ask", busy)
    result = CliRunner().invoke(cli.main, ["explain", "a", "b", "80"])
    assert "503: ask again. To do without: --kubeconfig" in " ".join(result.output.split())


def test_one_place_is_asked() -> None:
    result = explain("a", "b", "80", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "give one of --manifests, --kubeconfig and --url" in " ".join(result.output.split())


def test_a_pod_to_itself() -> None:
    assert "what a pod sends to itself is never judged" in explain("shop/db", "shop/db", "1").stdout


def test_families_that_differ_are_said_to(cluster: Path) -> None:
    policy(
        cluster,
        "four",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}",
        namespace="shop",
    )
    result = explain("visitor", "shop/db", "80", directory=cluster)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "default/visitor to shop/db, TCP 80: denied (IPv4 is allowed, IPv6 is denied)"
    assert "  IPv4, 10.244.1.16 to 10.244.1.13: allowed" in lines
    assert "  IPv6, fd00:10:244:1::16 to fd00:10:244:1::13: denied" in lines


def test_a_policy_that_is_not_valid_matters_where_it_may_select_a_pod(cluster: Path) -> None:
    policy(cluster, "bad", "{podSelector: {matchLabels: {app: db}}, ingres: []}")
    result = explain("shop/web", "shop/db", "80", directory=cluster)
    assert result.exit_code == 2
    assert result.stdout.startswith(
        "shop/web to shop/db, TCP 80: cannot say\n"
        "  NetworkPolicy shop/bad is refused, and may be about shop/db\n"
        "  As far as the manifests say:\n"
    )
    assert "refused: bad.yaml line 1: NetworkPolicy shop/bad: spec.ingres" in result.stderr
    for ends in (("shop/web", "shop/api"), ("visitor", "monitoring/prometheus")):
        result = explain(*ends, "80", directory=cluster)
        assert result.exit_code == 0
        assert "shop/bad" in result.stderr


def test_a_file_that_cannot_be_read_may_hold_anything(cluster: Path) -> None:
    (cluster / "broken.yaml").write_text("a: [")
    result = explain("shop/web", "shop/db", "80", directory=cluster)
    assert result.exit_code == 2
    assert "  broken.yaml could not be read, and what is in it may matter\n" in result.stdout
    assert "refused: broken.yaml: line 2" in result.stderr


def test_a_pod_that_is_not_valid_is_named(cluster: Path) -> None:
    (cluster / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus: {phase: no}\n")
    result = explain("x", "shop/db", "80", directory=cluster)
    assert result.exit_code == 2
    assert "  there is no pod default/x\n  Pod default/x is refused\n" in result.stdout
    # It may be whose address this is.
    assert explain("10.9.9.9", "shop/db", "80", directory=cluster).exit_code == 2
    assert explain("shop/web", "shop/db", "80", directory=cluster).exit_code == 0


def test_a_namespace_that_is_not_valid_matters_to_its_pods(cluster: Path) -> None:
    (cluster / "0.yaml").write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: '!'}}\n"
    )
    result = explain("visitor", "shop/db", "80", directory=cluster)
    assert result.exit_code == 2
    assert "Namespace shop is refused, and may be about shop/db" in result.stdout
    assert explain("visitor", "monitoring/prometheus", "80", directory=cluster).exit_code == 0


def test_what_a_pod_and_its_own_node_send_cannot_be_said(cluster: Path) -> None:
    (cluster / "node.yaml").write_text(
        "apiVersion: v1\nkind: Node\nmetadata: {name: demo}\n"
        "status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n"
    )
    policy(cluster, "deny", "{podSelector: {}}")
    result = explain("172.18.0.2", "shop/db", "80", directory=cluster)
    assert result.exit_code == 2
    assert "172.18.0.2 is an address of node demo, on which shop/db runs" in result.stdout
    assert "  ingress of shop/db: denied\n" in result.stdout


def test_json() -> None:
    result = explain("shop/web", "shop/db", "postgres", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["outcome"] == "denied"
    assert (document["source"], document["destination"]) == ("shop/web", "shop/db")
    assert [family["family"] for family in document["families"]] == [4, 6]
    first = document["families"][0]
    assert (first["allowed"], first["port"]) == (False, 5432)
    assert first["egress"]["allowed"] is True
    assert first["ingress"]["policies"] == [
        {
            "policy": str(Key("shop", "api-to-db")),
            "rules": [
                {
                    "rule": 0,
                    "allows": False,
                    "peer": {"matches": False, "why": "shop/web does not match app=api: it has app=web"},
                    "port": {"matches": True, "why": "TCP 5432"},
                }
            ],
        },
        {"policy": "shop/default-deny", "rules": []},
    ]


def test_json_when_nothing_can_be_said() -> None:
    result = explain("shop/web", "shop/nobody", "80", "--json")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert (document["outcome"], document["families"]) == ("cannot say", [])
    assert document["reasons"] == ["there is no pod shop/nobody"]


def test_a_policy_over_budget_is_explained_as_one() -> None:
    result = explain("shop/api", "shop/db", "5432", "--policy-budget", "rules=1")
    assert result.exit_code == 1
    why = "which is over budget and allows nothing: it needs 4 rules, of 1 at most (--policy-budget)"
    assert f"not by shop/api-to-db, {why}" in result.stdout
    asked = ("--policy-budget", "rules=1", "--json")
    document = json.loads(explain("shop/api", "shop/db", "5432", *asked).stdout)
    found = {one["policy"]: one for one in document["families"][0]["ingress"]["policies"]}
    assert found["shop/api-to-db"]["notEnforced"].startswith("it needs 4 rules")
    assert "notEnforced" not in found["shop/default-deny"]
