"""``matrix``, ``list`` and ``diff``: what may be asked, what is printed, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.commands import cli
from tests.docs import ROOT

EXAMPLES = ROOT / "examples"

_SHOP = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: i, ports: [{name: postgres, containerPort: 5432}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: data, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front, namespace: shop}
spec:
  rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: data, port: {number: 1}}}}]}}]
"""

_CLOSED = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"""


def policy(name: str, spec: str) -> str:
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )


_IN = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], "
_TO_DB = policy("db-in", _IN + "ports: [{port: postgres}]}]}")
_FROM_WEB = policy(
    "web-out",
    "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}",
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(one) for one in arguments])


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Workloads alone, all closed, but that web reaches db by its port's name."""
    return written(tmp_path / "shop", _SHOP, _CLOSED, _TO_DB, _FROM_WEB)


def written(directory: Path, *texts: str) -> Path:
    directory.mkdir()
    (directory / "all.yaml").write_text("---\n".join(texts))
    return directory


def test_workloads_of_files_are_ends_and_ports_by_name_are_numbers(shop: Path) -> None:
    result = run("list", shop)
    assert (result.exit_code, result.stderr) == (0, "")
    # All its pods are alike: the web pods may send each other everything, but take nothing.
    assert result.stdout == "shop/web → shop/db : tcp 5432\n"


def test_a_table_says_what_nothing_is_between(shop: Path) -> None:
    lines = run("matrix", shop).stdout.splitlines()
    assert lines[0].split("┃")[1].strip() == "shop/db"
    assert [cell.strip() for cell in lines[3].split("│")] == ["shop/web", "tcp 5432", "·", "·"]


def test_a_wide_table_has_signs_for_ports() -> None:
    result = run("matrix", EXAMPLES)
    assert "● all, ◐ some, · none; which ports: netpol-agent list" in result.stdout
    assert "172.18.100.0/24 except 172.18.100.2/32" in result.stdout


@pytest.mark.parametrize("end", ["shop/service/data", "svc/shop/data", "shop/data", "ingress/shop/front"])
def test_a_service_or_an_ingress_means_its_pods(shop: Path, end: str) -> None:
    kind, name = ("ingress", "front") if "ingress" in end else ("service", "data")
    assert run("list", shop, "--to", end).stdout == f"shop/web → shop/{kind}/{name} : tcp 5432\n"


def test_ends_and_ports_can_be_named() -> None:
    assert run("list", EXAMPLES, "--to", "shop/db").stdout == "shop/api → shop/db : tcp 5432\n"
    assert run("list", EXAMPLES, "--to", "shop/db", "--port", "80").stdout == "nothing is allowed\n"
    one = run("list", EXAMPLES, "--from", "shop/api", "--to", "172.18.100.7").stdout
    assert one == "shop/api → 172.18.100.7 : tcp 443\n"
    assert (
        run("list", EXAMPLES, "--from", "shop/api", "--to", "172.18.100.2").stdout == "nothing is allowed\n"
    )
    both = run("list", EXAMPLES, "--focus", "monitoring/prometheus", "--focus", "shop").stdout.splitlines()
    assert "monitoring/prometheus → shop/api : tcp 9090" in both
    assert all("shop/" in line or "monitoring/" in line for line in both)
    by_namespace = run("list", EXAMPLES, "--by", "namespace", "--from", "monitoring", "--to", "shop").stdout
    assert by_namespace == "monitoring → shop : some pods: tcp 9090\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "shop/dbb"), "there is no workload, pod or Service shop/dbb; did you mean shop/db?"),
        (("--to", "shap"), "there is no pod in a namespace shap; did you mean shop?"),
        (("--to", "a/b/c"), "b is no kind known here"),
        (("--to", "a/b/c/d"), "names nothing; write NAMESPACE"),
        (("--to", "shop/service/x"), "there is no Service shop/x"),
        (("--port", "tcp/0"), "'tcp/0' is no port; ports are numbers from 1 to 65535"),
        (("--port", "http"), "'http' is no port; write tcp/80"),
        (
            ("--kubeconfig", "x"),
            "give files or directories of objects, - for standard input, or --kubeconfig",
        ),
    ],
)
def test_what_is_not_there_is_said(arguments: tuple[str, ...], words: str) -> None:
    result = run("list", EXAMPLES, *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_every_form_tells_the_same(shop: Path) -> None:
    assert list(csv.reader(io.StringIO(run("matrix", shop, "--format", "csv").stdout))) == [
        ["source", "destination", "family", "every", "some"],
        ["shop/web", "shop/db", "", "tcp/5432", "tcp/5432"],
    ]
    told = json.loads(run("matrix", shop, "--format", "json").stdout)
    family = {"family": "", "every": ["tcp/5432"], "some": ["tcp/5432"]}
    assert told["connections"] == [{"source": "shop/web", "destination": "shop/db", "families": [family]}]
    assert json.loads(run("list", shop, "--json").stdout) == told
    assert "| shop/web | tcp 5432 | none | none |" in run("matrix", shop, "--format", "md").stdout
    assert '"shop/web" -> "shop/db" [label="tcp 5432"];' in run("matrix", shop, "--format", "dot").stdout
    drawn = run("matrix", shop, "--format", "svg").stdout
    assert drawn.startswith("<svg")
    assert "shop/web" in drawn


def test_refused_objects_are_named_and_the_rest_is_printed(tmp_path: Path) -> None:
    broken = _SHOP.replace("{app: db}}\n    spec", "{app: '-'}}\n    spec")
    assert broken != _SHOP
    result = run("list", written(tmp_path / "a", broken, _CLOSED))
    assert result.exit_code == 1
    assert "StatefulSet shop/db: spec.template.metadata.labels[app]" in result.stderr
    assert result.stdout == "nothing is allowed\n"


def test_pods_that_are_there_stand_for_their_workload(tmp_path: Path) -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\n"
        "metadata: {name: web-5d-x1, namespace: shop, labels: {app: web, pod-template-hash: 5d}}\n"
        "spec: {containers: []}\nstatus: {podIP: 10.0.0.1}\n"
    )
    told = json.loads(run("matrix", written(tmp_path / "a", _SHOP, pod), "--format", "json").stdout)
    assert [end["name"] for end in told["ends"]] == ["shop/db", "shop/web", "internet"]
    to_web = next(one for one in told["connections"] if one["destination"] == "shop/web")
    assert [family["family"] for family in to_web["families"]] == ["IPv4"]


def test_exposure_says_what_new_pods_may_do(shop: Path) -> None:
    result = run("matrix", shop, "--exposure")
    assert result.stdout.splitlines() == [
        "shop/db ingress from pods with app=web in namespace shop : tcp 5432",
        "shop/web egress to any pod in namespace shop : all",
    ]
    told = json.loads(run("matrix", shop, "--exposure", "--focus", "shop/db", "--format", "json").stdout)
    assert [one["who"] for one in told["exposure"]] == ["pods with app=web in namespace shop"]


def test_a_difference_is_told_in_connections(tmp_path: Path) -> None:
    before = written(tmp_path / "before", _SHOP, _CLOSED, _TO_DB)
    wider = _TO_DB.replace("port: postgres", "port: postgres}, {port: 9")
    after = written(tmp_path / "after", _SHOP, _CLOSED, wider, _FROM_WEB)
    result = run("diff", before, after)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "+ shop/web → shop/db : tcp 9,5432",
        "1 added, 0 removed, 0 changed; 0 connections the same",
    ]
    last = written(tmp_path / "last", _SHOP, _CLOSED, _TO_DB, _FROM_WEB)
    assert "~ shop/web → shop/db : tcp 9,5432 → tcp 5432" in run("diff", after, last).stdout
    comment = run("diff", after, before, "--format", "md").stdout
    assert "| removed | shop/web | shop/db | tcp 9,5432 | none |" in comment
    assert run("diff", before, after, "--port", "tcp/80").exit_code == 0
    assert run("diff", before, tmp_path / "nowhere").exit_code == 2
    assert run("diff", before).exit_code == 2


def test_a_new_workload_is_named(tmp_path: Path) -> None:
    before = written(tmp_path / "before", _SHOP, _CLOSED)
    other = _SHOP.split("---")[0].replace("web", "cache")
    after = written(tmp_path / "after", _SHOP, _CLOSED, other)
    told: Any = json.loads(run("diff", before, after, "--format", "json").stdout)
    assert (told["new"], told["gone"], told["added"]) == (["shop/cache"], [], [])
    assert run("diff", after, before).stdout.startswith("gone: shop/cache\n")


def test_refused_objects_make_a_difference_unsure(tmp_path: Path) -> None:
    before = written(tmp_path / "before", _SHOP)
    after = written(tmp_path / "after", _SHOP, _CLOSED.replace("podSelector", "podSelectr"))
    result = run("diff", before, after)
    assert result.exit_code == 2
    assert "refused:" in result.stderr


_OWNED = """\
apiVersion: v1
kind: Pod
metadata:
  name: p
  namespace: n
  ownerReferences:
    - {apiVersion: v1, kind: Job, name: "=x|\\e[31m\\n::error::y", controller: true, uid: u}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: "q\\e[31m\\n::error::z", namespace: n}
spec: {containers: [{name: c, image: i}]}
"""


@pytest.mark.parametrize("form", ["table", "csv", "md", "dot", "svg", "list", "diff"])
def test_a_name_that_is_none_begins_no_line_and_moves_no_cursor(form: str, tmp_path: Path) -> None:
    """The API server checks no name of an owner, and files may hold anything."""
    (tmp_path / "new.yaml").write_text(_OWNED)
    (tmp_path / "old").mkdir()
    arguments = {
        "list": ["list", str(tmp_path / "new.yaml")],
        "diff": ["diff", str(tmp_path / "old"), str(tmp_path / "new.yaml")],
    }.get(form, ["matrix", "--format", form, str(tmp_path / "new.yaml")])
    result = CliRunner().invoke(cli.main, arguments)
    assert "::error::y" in result.stdout
    assert "::error::z" in result.stderr
    for line in result.output.splitlines():
        assert line.replace("\t", " ").isprintable()
        assert not line.startswith("::")
