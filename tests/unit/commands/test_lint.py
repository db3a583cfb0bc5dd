"""``lint``: what it takes, what it prints where, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.commands import cli
from agent.lint.registry import RULES
from tests.docs import LINT_EXAMPLES, ROOT

WRONG = (LINT_EXAMPLES / "empty-list-allows-all.before.yaml").read_text()
REFUSED = (LINT_EXAMPLES / "refused.before.yaml").read_text()
OLD = (LINT_EXAMPLES / "deprecated-api-version.before.yaml").read_text()


def lint(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli.main, ["lint", *arguments], input=stdin)


_NAMELESS = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: {podSelector: {}}\n"


def test_our_own_examples_are_clean() -> None:
    done = lint(str(ROOT / "examples"))
    assert (done.exit_code, done.stdout) == (0, "no findings in 9 policies of 10 files\n")


def test_a_finding_has_its_place_and_a_remedy() -> None:
    done = lint("-", stdin=WRONG)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "standard input:11:5: warning [empty-list-allows-all] NetworkPolicy shop/web: spec.ingress[0].from: "
        "an empty list matches every peer, as if the field were absent",
        "    remedy: name the peers, or remove the rule to allow none; to allow every peer, remove the field",
        "1 warning in 1 policy of 1 file",
    ]


def test_what_fails_is_chosen() -> None:
    assert lint("-", "--fail-on", "error", stdin=WRONG).exit_code == 0
    assert lint("-", "--fail-on", "error", stdin=REFUSED).exit_code == 1
    info = (LINT_EXAMPLES / "peers-are-alternatives.before.yaml").read_text()
    assert lint("-", stdin=info).exit_code == 0


def test_input_that_cannot_be_used_is_no_finding(tmp_path: Path) -> None:
    done = lint(str(tmp_path / "absent.yaml"))
    assert (done.exit_code, "absent.yaml: no such file or directory" in done.stderr) == (2, True)
    assert lint().exit_code == 2
    assert lint("--pod-cidr", "10.0.0.0/33", "-", stdin=WRONG).exit_code == 2
    assert lint("--fix", "-", stdin=WRONG).exit_code == 2
    assert lint("--kubeconfig", str(tmp_path / "absent")).exit_code == 2


def test_a_text_that_is_no_yaml_is_a_finding() -> None:
    done = lint("-", "--json", stdin="kind: [\n")
    (found,) = json.loads(done.stdout)["findings"]
    assert (done.exit_code, found["rule"], found["line"]) == (1, "unreadable", 2)


def test_every_file_counts_and_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/a.yaml").write_text(WRONG)
    (tmp_path / "deploy/b.yaml").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    found = json.loads(lint("deploy", "--json").stdout)
    assert [(one["file"], one["rule"]) for one in found["findings"]] == [
        ("deploy/a.yaml", "empty-list-allows-all"),
        ("deploy/b.yaml", "written-twice"),
        ("deploy/b.yaml", "empty-list-allows-all"),
    ]
    assert (found["policies"], found["files"]) == (2, 2)


def test_fix_rewrites_the_version_and_keeps_all_else(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    text = (
        OLD.replace("extensions/v1beta1", '"extensions/v1beta1"   # from 2016')
        + "---\n# the second\n"
        + OLD.replace("name: web", "name: api").replace("  namespace", "  # here\n  namespace")
    )
    file.write_text(text)
    done = lint("--fix", str(file))
    assert file.read_text() == text.replace("extensions/v1beta1", "networking.k8s.io/v1")
    assert done.stderr.splitlines() == [
        f"fixed: {file}: line 1: NetworkPolicy shop/web: extensions/v1beta1 to networking.k8s.io/v1",
        f"fixed: {file}: line 13: NetworkPolicy shop/api: extensions/v1beta1 to networking.k8s.io/v1",
    ]
    assert (done.exit_code, "same-policy" in done.stdout) == (1, True)
    file.write_text(OLD)
    assert (lint("--fix", str(file)).exit_code, file.read_text().splitlines()[0]) == (
        0,
        "apiVersion: networking.k8s.io/v1",
    )


def test_github_shows_a_finding_beside_its_line() -> None:
    (line,) = lint("-", "--format", "github", stdin=WRONG).stdout.splitlines()
    assert line.startswith(
        "::warning file=standard input,line=11,col=5,title=empty-list-allows-all::NetworkPolicy shop/web: "
    )


def test_a_name_that_is_none_moves_no_cursor_of_whoever_reads_github_s_log() -> None:
    found = lint(
        "--format",
        "github",
        "-",
        stdin='metadata: {name: "x\\e[31m\\n::error::y", namespace: n}\n' + _NAMELESS,
    )
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert any("::error::y" in line for line in lines)
    assert all(line.isprintable() and not line.startswith("::error::y") for line in lines)


def test_sarif_has_what_its_schema_requires() -> None:
    document = json.loads(lint("-", "--format", "sarif", stdin=WRONG).stdout)
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "netpol-agent"
    assert [rule["id"] for rule in driver["rules"]] == [rule.id for rule in RULES]
    (result,) = run["results"]
    assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "empty-list-allows-all"
    assert result["level"] in ("error", "warning", "note")
    assert result["message"]["text"].startswith("NetworkPolicy shop/web: spec.ingress[0].from: ")
    place = result["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 11, "startColumn": 5}
    assert place["artifactLocation"] == {"uri": "standard%20input"}


def test_the_hooks_of_pre_commit_call_it() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert all(hook["entry"].startswith("netpol-agent lint") for hook in hooks)


def test_a_rule_of_many_ports_takes_no_time_that_grows_with_their_square() -> None:
    """With every pair of them looked at, it would take minutes."""
    ports = ", ".join(f"{{port: {number}}}" for number in range(1, 20_001, 2))
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec: {containers: [{name: c}]}\n"
    spec = f"spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: 5}}, {ports}]}}]}}\n"
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: many, namespace: n}\n"
    found = lint("--json", "-", stdin=f"{pod}---\n{head}{spec}")
    said = [one["message"] for one in json.loads(found.stdout)["findings"]]
    assert sum("listed twice" in message for message in said) == 1
