"""``replay``: what it takes, what it prints, and its exit codes, with objects from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.clock import moment
from agent.commands import cli
from agent.net import Direction
from agent.observe.flows.flow import End, Report, Unlogged, as_json
from agent.settings import SETTINGS
from tests.docs import ROOT
from tests.unit.observe.replay.test_here import flow

CLUSTER = ROOT / "examples/cluster.yaml"
WEB, API = End("10.244.1.11", 999, "shop/web"), End("10.244.1.12", 8080, "shop/api")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        for variable in setting.environment:
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "flows"
    reports: list[Report] = [
        flow(1, WEB, API, Direction.INGRESS, count=7),
        Unlogged(moment(1.0), 3, "they came faster than they were read"),
    ]
    path.write_bytes(b"".join(as_json(one) + b"\n" for one in reports) + b'{"event":"conn')
    return path


def replay(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli.main, ["replay", *arguments], input=stdin)


def offline(log: Path, *arguments: str) -> Result:
    return replay(*arguments, "--manifests", str(CLUSTER), "--flow-log", str(log))


def test_what_would_be_cut_is_named_and_the_exit_code_is_one(log: Path) -> None:
    done = offline(log, str(ROOT / "examples/01-default-deny.yaml"))
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "added shop/default-deny",
        "held against 1 kind of connection: 0 tracked now, 7 packets logged",
        "would be cut: 1 kind of connection, seen 7 times",
        "  ingress of shop/api by shop/default-deny: 1 kind, seen 7 times",
        "    shop/web (10.244.1.11) to shop/api (10.244.1.12) tcp/8080, 7 logged: isolated by "
        "shop/default-deny, without any ingress rule",
    ]
    assert "note:" in done.stderr
    assert "1 line cannot be read and is left out" in done.stderr
    assert "3 packets came too fast to be logged" in done.stderr


def test_lines_of_a_log_that_are_nested_without_end_are_left_out(log: Path) -> None:
    log.write_bytes(log.read_bytes() + b"\n" + b'{"event":' + b"[" * 100_000 + b"\n" + b'{"a":' * 100_000)
    done = offline(log, str(ROOT / "examples/01-default-deny.yaml"))
    assert done.exit_code == 1
    assert "3 lines cannot be read and are left out" in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        End("10.244.1", 999),
        End("10.244.1.11", 999, "web"),
        End("10.244.1.11", -1),
        End("10.244.1.11", 1 << 16),
    ],
)
def test_a_line_with_an_end_that_no_agent_has_written_is_left_out(log: Path, wrong: End) -> None:
    reports = [flow(1, WEB, API, Direction.INGRESS), flow(2, wrong, API, Direction.INGRESS)]
    log.write_bytes(b"".join(as_json(one) + b"\n" for one in reports))
    done = offline(log, str(ROOT / "examples/01-default-deny.yaml"))
    assert done.exit_code == 1
    assert "1 line cannot be read and is left out" in done.stderr


def test_what_changes_nothing_ends_with_zero(log: Path) -> None:
    examples = [str(ROOT / "examples" / name) for name in ("01-default-deny.yaml", "04-named-port-in.yaml")]
    done = offline(log, *examples, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (found["cut"], found["opened"], found["logged"]) == ([], [], 7)
    assert found["changes"] == ["added shop/default-deny", "added shop/web-to-api"]


def test_audited_policies_are_judged_as_enforced_if_asked(log: Path, tmp_path: Path) -> None:
    file = tmp_path / "audited.yaml"
    file.write_text(CliRunner().invoke(cli.main, ["convert", "deny all ingress to shop mode audit"]).stdout)
    assert offline(log, str(file)).exit_code == 0
    assert offline(log, str(file), "--enforce").exit_code == 1


def test_only_what_was_seen_since_then(log: Path) -> None:
    done = offline(log, str(ROOT / "examples/01-default-deny.yaml"), "--since", "1h")
    assert (done.exit_code, "held against 0 kinds" in done.stdout) == (0, True)


def test_a_policy_that_is_not_there_cannot_be_removed(log: Path) -> None:
    done = offline(log, "--remove", "shop/none")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no policy shop/none to remove" in done.stderr
    everything = replay(
        "--remove", "shop/default-deny", "--manifests", str(ROOT / "examples"), "--flow-log", str(log)
    )
    assert everything.exit_code == 0
    assert "removed shop/default-deny" in everything.stdout


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ((), "give files with policies, or --remove NS/NAME"),
        (("--remove", "shop"), "--remove is 'shop': give it as NAMESPACE/NAME"),
        (("/no/such",), "no such file or directory"),
        ((str(CLUSTER),), "there is no NetworkPolicy in it"),
        (("--remove", "a/b", "--manifests", str(CLUSTER)), "--flow-log is missing"),
        (("--remove", "a/b", "--cluster", "--url", "http://127.0.0.1:1"), "give one of"),
        (("--remove", "a/b", "--url", "http://127.0.0.1:1"), "no agent answers"),
        (("--remove", "a/b", "--flow-log", "/no/such"), "name a file that --flow-log has written"),
        (("--remove", "a/b", "--flow-log", str(CLUSTER)), "no line of it is a report"),
        (("--remove", "a/b", "--since", "yesterday"), "--since is 'yesterday'"),
    ],
)
def test_what_cannot_be_answered_ends_with_two(arguments: tuple[str, ...], wrong: str) -> None:
    done = replay(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert wrong in done.stderr
