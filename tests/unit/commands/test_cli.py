"""The command line: what each command takes, prints and exits with."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent import __version__
from agent.commands import cli
from agent.commands.options import answering
from agent.fault import Fault
from agent.kernel import capability
from agent.runtime import start
from agent.settings import SETTINGS, Settings
from tests.docs import ROOT


def netpol_agent(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def test_version() -> None:
    assert netpol_agent("--version").output == f"netpol-agent {__version__}\n"


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"netpol-agent {__version__}\n"


def test_help_loads_none_of_the_large_packages() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from agent.commands.cli import main; "
        "CliRunner().invoke(main, ['run', '--help']); "
        "print(sorted({'kubernetes', 'pyroute2', 'iptc', 'rich', 'structlog', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_run_has_an_option_for_every_setting() -> None:
    output = netpol_agent("run", "--help").output
    for setting in SETTINGS:
        assert setting.flag in output
        assert setting.environment[0] in "".join(output.split())


def test_the_list_of_commands_is_whole() -> None:
    lines = netpol_agent("--help").output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(cli.main.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_every_command_gives_an_example_with_options_it_has(name: str) -> None:
    output = netpol_agent(name, "--help").output
    example = output.partition("Example: ")[2].split()
    assert example[:2] == ["netpol-agent", name]
    params = {flag for param in cli.main.commands[name].params for flag in param.opts}
    assert {word for word in example if word.startswith("--")} <= params


@pytest.mark.parametrize("name", ["run", "explain", "render", "migrate"])
def test_no_line_of_a_help_ends_within_a_word(name: str) -> None:
    words = netpol_agent(name, "--help").output.split()
    for setting in SETTINGS:
        if setting.name in ("policy_budget", "namespace_budget"):
            assert set(setting.default.split(",")) <= {word.rstrip(",]") for word in words}


def test_an_option_is_told_as_its_command_means_it() -> None:
    render = " ".join(netpol_agent("render", "--help").output.split())
    assert "default: none, it must be given" in render
    assert "API server" not in render
    explain = " ".join(netpol_agent("explain", "--help").output.split())
    assert "default: none: the agent is asked" in explain
    assert "any free port" not in explain
    assert "default: the only node that has pods" in render
    assert "the kernel has" not in render
    assert "any free port" not in netpol_agent("status", "--help").output
    run = " ".join(netpol_agent("run", "--help").output.split())
    assert "default: none: an API server is read" in run
    assert "0: any free port" in run


class Ran:
    """What the daemon was given."""

    settings: Settings | None = None


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: admin}}]
clusters: [{name: lab, cluster: {server: "https://10.0.0.1:6443"}}]
users: [{name: admin, user: {token: t}}]
"""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    found = Ran()

    def run(settings: Settings) -> int:
        found.settings = settings
        return 1

    monkeypatch.setattr(start, "run", run)
    monkeypatch.setattr(capability, "missing", tuple)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return found


def test_run_hands_its_settings_on_and_exits_as_told(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETPOL_AGENT_LINGER", "5")
    result = netpol_agent(
        "run", "--node-name", "n1", "--allow-nodes", "--no-fix-host", "--mark-egress", "0x100"
    )
    assert result.exit_code == 1
    assert ran.settings is not None
    found = ran.settings
    assert (found.node_name, found.allow_nodes, found.fix_host, found.mark_egress) == (
        "n1",
        True,
        False,
        0x100,
    )
    assert found.linger == 5.0


def test_a_variable_that_is_no_setting_is_warned_of(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETPOL_AGENT_LINGERS", "5")
    result = netpol_agent("run", "--node-name", "n1")
    assert "did you mean NETPOL_AGENT_LINGER?" in result.output
    assert ran.settings is not None


def test_a_flag_of_two_forms_beats_the_environment(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETPOL_AGENT_ALLOW_NODES", "true")
    netpol_agent("run", "--node-name", "n1", "--no-allow-nodes")
    assert ran.settings is not None
    assert ran.settings.allow_nodes is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--mark-ingress", "3"), "--mark-ingress is '3': give one bit"),
        (("run", "--manifests", "/nowhere"), "--manifests is '/nowhere': give a directory"),
        (("run", "--node-name", "a", "--kubeconfig", "/no/x"), "kubeconfig /no/x: no such file"),
        (("run", "--node-name", "A"), "--node-name is 'A'"),
        (("run", "--manifests", ""), "--manifests is empty: give it a value"),
        (("explain", "a", "b", "80", "--manifests", ""), "--manifests is empty: give it a value"),
        (("run", "--what"), "No such option"),
        (("render",), "--manifests is missing"),
        (("render", "--manifests", "a", "b"), "'b' belongs to no option: give --manifests before each path"),
        (("explain", "a", "b", "80", "--manifests", "a", "b"), "'b' belongs to no option"),
        (("run", "--manifests", "-"), "explain and render read single files and - as well"),
        (("run", "--manifests", __file__), "explain and render read single files and - as well"),
        (("status", "--health-port", "x"), "--health-port is 'x'"),
    ],
)
def test_wrong_options_are_named_and_exit_with_2(ran: Ran, arguments: tuple[str, ...], words: str) -> None:
    result = netpol_agent(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert ran.settings is None


@pytest.mark.parametrize("command", [("run", "--node-name", "n1"), ("cleanup",)])
def test_without_the_capability_it_ends_at_once(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(capability, "missing", lambda: ("CAP_NET_RAW",))
    monkeypatch.setattr(start, "cleanup", lambda: pytest.fail("not to be tried"))
    result = netpol_agent(*command)
    assert result.exit_code == 1
    assert "needs root in the node's network namespace" in result.output
    assert "CAP_NET_RAW" in result.output
    assert ran.settings is None


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("CapEff:\t000001ffffffffff\n", ()),
        ("Uid:\t0\nCapEff:\t00000000a80425fb\n", ("CAP_NET_ADMIN",)),
        ("CapEff:\t0000000000003000\n", ()),
        ("CapEff:\t0000000000001000\n", ("CAP_NET_RAW",)),
        ("CapEff:\t0000000000000000\n", ("CAP_NET_ADMIN", "CAP_NET_RAW")),
        ("", ()),
    ],
)
def test_capabilities_are_read_not_the_user(tmp_path: Path, text: str, missing: tuple[str, ...]) -> None:
    (tmp_path / "status").write_text(text)
    assert capability.missing(tmp_path / "status") == missing


def test_a_kubeconfig_of_the_environment_must_be_there_unless_manifests_are_read(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/a:{tmp_path}/b")
    result = netpol_agent("run", "--node-name", "n1")
    assert (result.exit_code, ran.settings) == (2, None)
    assert f"kubeconfig {tmp_path}/a:{tmp_path}/b: no such file" in result.output
    netpol_agent("run", "--node-name", "n1", "--manifests", str(tmp_path))
    assert ran.settings is not None
    ran.settings = None
    (tmp_path / "b").write_text(KUBECONFIG)
    netpol_agent("run", "--node-name", "n1")
    assert ran.settings is not None


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (
            KUBECONFIG,
            ("--context", "lob"),
            "has no context 'lob'; did you mean 'lab'? choose with --context: lab",
        ),
        (KUBECONFIG.replace("current-context: lab", ""), (), "has no current-context; choose with --context"),
        (
            KUBECONFIG.replace("cluster: lab, u", "cluster: lib, u"),
            (),
            "names the cluster 'lib', which is not there",
        ),
        (
            KUBECONFIG.replace("user: admin}", "user: root}"),
            (),
            "names the user 'root', which is not there; there",
        ),
        (KUBECONFIG.replace("https://", ""), (), "has the server '10.0.0.1:6443'; give a URL"),
        (KUBECONFIG.replace('server: "https://10.0.0.1:6443"', ""), (), "has the server None; give a URL"),
        (KUBECONFIG.replace("token: t", "client-key-data: '%'"), (), "client-key-data is not base64"),
        ("a: [", (), "is not YAML"),
        ("- a", (), "is not a kubeconfig; give a file of kind Config"),
        ("kind: Pod", (), "is not a kubeconfig"),
        ("", (), "is not a kubeconfig"),
        ("\0", (), "is not YAML: line 1: the control character U+0000"),
        ("a: b\nc: [d", (), "is not YAML: line 3: "),
        ("[" * 3000, (), "nested too deeply"),
        ("a: !!int x", (), "is not YAML: line 1: 'x' is not what its tag"),
        ("a: 9999-99-99", (), "is not one document of plain values; give a file of kind Config"),
        (
            KUBECONFIG.replace("cluster: lab, u", "cluster: [x], u"),
            (),
            "names the cluster ['x'], which",
        ),
        (KUBECONFIG.replace("user: admin}", "user: {a: b}}"), (), "names the user {'a': 'b'}, which is not"),
        (KUBECONFIG.replace("10.0.0.1:6443", "[::1"), (), "has the server 'https://[::1'; give a URL"),
        (KUBECONFIG.replace(":6443", ":99999"), (), "has the server 'https://10.0.0.1:99999'; give a URL"),
    ],
)
@pytest.mark.parametrize("command", ["run", "migrate"])
def test_a_kubeconfig_that_waiting_does_not_mend_ends_with_2(
    ran: Ran, tmp_path: Path, command: str, text: str, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "bad").write_text(text)
    result = netpol_agent(command, "--node-name", "n1", "--kubeconfig", str(tmp_path / "bad"), *arguments)
    assert (result.exit_code, ran.settings) == (2, None)
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_a_kubeconfig_that_is_a_directory_ends_with_2(ran: Ran, tmp_path: Path) -> None:
    result = netpol_agent("run", "--node-name", "n1", "--kubeconfig", str(tmp_path))
    assert (result.exit_code, ran.settings) == (2, None)
    assert "Is a directory; make it a file the agent can read" in " ".join(result.stderr.split())


def test_without_any_kubeconfig_it_ends_with_2_but_in_a_pod(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = netpol_agent("run", "--node-name", "n1")
    assert (result.exit_code, ran.settings) == (2, None)
    assert "none found: not in a pod" in result.stderr
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    netpol_agent("run", "--node-name", "n1")
    assert ran.settings is not None


def test_credentials_are_not_asked_for_at_the_start(ran: Ran, tmp_path: Path) -> None:
    plugin = (
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/false, interactiveMode: Never}"
    )
    (tmp_path / "kubeconfig").write_text(KUBECONFIG.replace("token: t", plugin))
    netpol_agent("run", "--node-name", "n1")
    assert ran.settings is not None


@pytest.mark.parametrize("command", ["explain shop/api shop/db 80", "explain a/b c/d 80 --json", "render"])
def test_an_answer_that_cannot_be_written_is_none(command: str) -> None:
    """Exit code 1 would say denied."""
    line = [sys.executable, "-m", "agent", *command.split(), "--manifests", "examples"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert (
        ended.stderr == "Error: the answer cannot be written: No space left on device; write it elsewhere\n"
    )


@pytest.mark.parametrize(
    ("words", "completion"),
    [("--help", ""), ("--version", ""), ("lint -h", ""), ("run --help", ""), ("", "bash")],
)
def test_help_that_cannot_be_written_is_an_answer_that_cannot(words: str, completion: str) -> None:
    said = {"_NETPOL_AGENT_COMPLETE": f"{completion}_source"} if completion else {}
    main = "from agent.commands.cli import main; main(prog_name='netpol-agent')"
    line = [sys.executable, "-c", main, *words.split()]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            line, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **said}
        )
    assert ended.returncode == 2
    assert (
        ended.stderr == "Error: the answer cannot be written: No space left on device; write it elsewhere\n"
    )


@pytest.mark.parametrize("code", [1, 2])
def test_a_command_says_by_its_code_whether_it_did_something_before_its_answer_was_lost(code: int) -> None:
    with pytest.raises(SystemExit) as ended, answering(code):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert ended.value.code == code


def test_without_standard_input_nothing_came() -> None:
    line = f"{sys.executable} -m agent explain a/b c/d 80 --manifests - <&-"
    ended = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert "refused: standard input: nothing came; give it objects" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_cleanup_exits_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "missing", tuple)
    monkeypatch.setattr(start, "cleanup", lambda: [Fault("set KUBE-X: in use", "remove the rule")])
    result = netpol_agent("cleanup", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "left": [{"what": "set KUBE-X: in use", "remedy": "remove the rule"}]
    }
    monkeypatch.setattr(start, "cleanup", list)
    result = netpol_agent("cleanup", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"left": []}
