"""``convert``: what it takes, what it prints where, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from agent.commands import cli
from tests.docs import ROOT


def convert(*arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(cli.main, ["convert", *arguments], input=stdin)


def test_the_examples_are_lines_and_the_lines_the_examples() -> None:
    lines = convert("--manifests", str(ROOT / "examples"))
    assert lines.exit_code == 0
    assert "allow shop/db from shop/api on tcp/5432 as api-to-db\n" in lines.stdout
    back = convert("-", stdin=lines.stdout)
    assert back.exit_code == 0
    again = convert("--manifests", "-", stdin=back.stdout)
    assert (again.exit_code, again.stdout) == (0, lines.stdout)


def test_one_wrong_line_and_nothing_is_printed() -> None:
    done = convert("deny all ingress to shop", "allow shop from anyone")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: line 2: column 7: 'shop':")


def test_lines_that_are_no_text_are_wrong_lines() -> None:
    done = convert("-", stdin=b"deny all ingress to shop\nallow \xff/a from shop/b\n")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: line 2: column 7:")


def test_a_file_in_place_of_a_line_is_told_how_it_becomes_lines() -> None:
    done = convert(str(ROOT / "examples"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is a file, no line: --manifests turns policies into lines." in done.stderr
    assert convert("allow shop from " + 300 * "x").exit_code == 2


def test_json_is_what_kubectl_takes() -> None:
    found = json.loads(convert("--json", "deny all ingress to shop").stdout)
    assert (found["kind"], len(found["items"])) == ("List", 1)
    (policy,) = yaml.safe_load_all(convert("deny all ingress to shop").stdout)
    assert found["items"] == [policy]


def test_what_a_line_does_not_say_is_named(tmp_path: Path) -> None:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
    metadata = {
        "name": "closed",
        "namespace": "shop",
        "labels": {"owner": "me"},
        "annotations": {"netpol-agent.io/mode": "audit", "why": "because"},
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    }
    silent = {**policy, "metadata": {"name": "open"}, "spec": {**spec, "egress": [{}]}}
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump_all([policy, silent]))
    done = convert("--manifests", str(file))
    assert (done.exit_code, done.stdout) == (1, "deny all ingress to shop as closed mode audit\n")
    assert "NetworkPolicy shop/closed: a line does not say its labels owner" in done.stderr
    assert "a line does not say its annotations why" in done.stderr
    assert "NetworkPolicy default/open: its rules for egress have no effect" in done.stderr
    lines = json.loads(convert("--json", "--manifests", str(file)).stdout)
    assert lines == [{"policy": "shop/closed", "line": "deny all ingress to shop as closed mode audit"}]


def test_wrong_options_end_with_two() -> None:
    for arguments in (
        (),
        ("-", "--manifests", "examples"),
        ("--label", "a b", "-"),
        ("--manifests", "/no/such"),
    ):
        done = convert(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")


def test_policies_are_proposed_from_a_flow_log_in_audit() -> None:
    log, objects = str(ROOT / "examples/flows.jsonl"), str(ROOT / "examples/cluster.yaml")
    done = convert("--from-flows", log, "--manifests", objects, "--lines")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "allow shop/db from shop/api on tcp/5432 as db-ingress mode audit"
    assert "policies proposed: 3; kinds of connection that they allow: 4\n" in done.stderr
    manifests = convert("--from-flows", log, "--manifests", objects)
    again = convert("--manifests", "-", stdin=manifests.stdout)
    assert again.stdout == done.stdout
    items = json.loads(convert("--from-flows", log, "--manifests", objects, "--json").stdout)["items"]
    assert items == list(yaml.safe_load_all(manifests.stdout))
    none = convert("--from-flows", log, "--manifests", objects, "--verdict", "denied")
    assert (none.exit_code, none.stdout) == (0, "")
    for arguments, wrong in (
        (("--from-flows", log), "the log names pods, and their labels are needed"),
        (("--from-flows", log, "--manifests", objects, "--verdict", "maybe"), "--verdict is 'maybe'"),
        (("--from-flows", objects, "--manifests", objects), "no line of it is a report"),
        (("--from-flows", log, "x"), "not both"),
    ):
        refused = convert(*arguments)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert wrong in refused.stderr
