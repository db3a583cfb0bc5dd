"""The commands that look at a node."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.clock import SYSTEM
from agent.commands import cli
from agent.history.change import Change, Effect, Subject, What
from agent.history.store import NAME
from agent.history.writer import Writer
from agent.observe import client
from agent.observe.client import UnreachableError
from agent.observe.history.route import history_route
from agent.observe.server import StatusServer
from agent.settings import SETTINGS


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        for variable in setting.environment:
            monkeypatch.delenv(variable, raising=False)


def netpol_agent(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """A file in which one policy has isolated a pod."""
    made = Writer(tmp_path, 16 << 20, 86_400.0, SYSTEM)
    now = time.time()
    effect = Effect(isolated_ingress=("shop/db",))
    made.put(
        Change(1, Subject.POLICY, What.ADDED, now, "shop", "deny", kernel=now, who="kubectl", effect=effect)
    )
    made.work()
    return made


@pytest.fixture
def port(writer: Writer) -> Iterator[str]:
    """The port of an agent that serves it."""

    def nothing() -> None:
        raise AssertionError("nobody asks for this")

    more = {"/history": history_route("worker-1", writer.rows, time.time)}
    server = StatusServer("127.0.0.1", 0, nothing, nothing, (), more)  # type: ignore[arg-type]
    server.start()
    yield str(server.port)
    server.stop()


def test_the_history_is_asked_of_the_agent(port: str) -> None:
    shown = netpol_agent("history", "--pod", "shop/db", "--health-port", port)
    assert shown.exit_code == 0
    assert "policy shop/deny added by kubectl" in shown.output
    assert "shop/db ingress: isolated since " in shown.output
    asked = netpol_agent("history", "--json", "--policy", "shop/deny", "--url", f"http://127.0.0.1:{port}")
    assert [row["object"] for row in json.loads(asked.output)["rows"]] == ["shop/deny"]


def test_where_nothing_fits_that_is_said(port: str) -> None:
    for arguments in (("--pod", "shop/other"), ("--until", "1h"), ("--namespace", "test")):
        shown = netpol_agent("history", *arguments, "--health-port", port)
        assert (shown.exit_code, shown.output) == (0, "nothing like that is known\n"), arguments


def test_while_no_agent_runs_its_file_is_read(writer: Writer, tmp_path: Path) -> None:
    assert writer.faults() == ()
    shown = netpol_agent("history", "--state-dir", str(tmp_path))
    assert (shown.exit_code, "policy shop/deny added" in shown.output) == (0, True)
    none = netpol_agent("history", "--url", "http://127.0.0.1:1")
    assert none.exit_code == 2
    assert "While no agent runs: --state-dir DIR reads its file." in none.stderr


def test_a_file_that_cannot_be_read_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"damaged" * 1000)
    shown = netpol_agent("history", "--state-dir", str(tmp_path))
    assert shown.exit_code == 2
    assert f"the history in {tmp_path} cannot be read: file is not a database" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("--pod", "db"), "--pod is 'db': give it as NAMESPACE/NAME."),
        (("--since", "noon"), "--since is 'noon': give how long ago"),
        (("--limit", "many"), "--limit is 'many': give a number from 1 to 1000."),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], wrong: str) -> None:
    shown = netpol_agent("history", *arguments)
    assert shown.exit_code == 2
    assert wrong in shown.stderr


@pytest.mark.parametrize("option", ["--pod", "--policy"])
def test_status_takes_a_name_with_its_namespace(option: str) -> None:
    shown = netpol_agent("status", option, "a/b/c")
    assert shown.exit_code == 2
    assert f"{option} is 'a/b/c': give it as NAMESPACE/NAME." in shown.stderr


def test_an_agent_that_takes_connections_and_does_not_answer_is_told_with_the_time_waited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"no answer within 0\.1 s\. Is it running\?"):
            client.get(url, "/verify", seconds=0.1)
