"""The archive for a bug report: it has what a person needs who was not there, and no secret."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.commands.cli import main
from tests.cluster.scene import Scene, Way, pods
from tests.lab.cluster import HEALTH_PORT, http_get


def report(scene: Scene, *arguments: str, port: int = HEALTH_PORT) -> Result:
    with scene.near.netns.entered():
        return CliRunner().invoke(main, ["report", "--health-port", str(port), *arguments])


def unpacked(content: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            assert member.mode == 0o600
            folder, _, name = member.name.partition("/")
            assert folder.startswith("netpol-agent-report-")
            found[name] = file.read()
    return found


def test_it_has_what_is_held_and_what_should_be_and_no_secret(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    client = scene.pod(scene.near, namespace, "client")
    scene.are_open([Way(client, server)])
    scene.policy(namespace, "in", pods(app="server"), policyTypes=["Ingress"])
    scene.expect(denied=[Way(client, server)])
    kubeconfig = scene.cluster.api.kubeconfig("agent")
    monkeypatch.setenv("NETPOL_AGENT_KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("SOME_PASSWORD", "pass-word-of-somebody")
    output = tmp_path / "report.tar.gz"

    done = report(scene, "--output", str(output))
    assert f"written: {output}" in done.stderr
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    parts = unpacked(output.read_bytes())
    assert json.loads(parts["status.json"])["node"] == scene.near.name
    assert json.loads(parts["settings.json"])["node_name"] == scene.near.name
    assert parts["ready.txt"].endswith(b"readyz check passed\n")
    comment = f'"no ingress policy allows it: pod {namespace}/server"'.encode()
    assert comment in parts["rendered.txt"]
    held = parts[f"kernel/iptables-{scene.near.mode}-save.txt"]
    assert comment in held
    assert b"-A FORWARD -j KUBE-NETPOL-FORWARD" in held or b"-A FORWARD " in held
    assert b"KUBE-FORWARD" not in held
    assert f"add KUBE-ISOLATED-INGRESS-4 {server.v4}".encode() in parts["kernel/ipset-save.txt"]
    assert b"net/ipv4/ip_forward = 1" in parts["host/sysctls.txt"]
    assert parts["versions.txt"].startswith(b"netpol-agent ")
    assert str(kubeconfig).encode() in parts["environment.txt"]

    (user,) = json.loads(kubeconfig.read_text())["users"]
    everything = b"".join(parts.values())
    assert len(everything) > 5000
    assert user["user"]["token"].encode() not in everything
    assert b"pass-word-of-somebody" not in everything
    assert b"BEGIN" not in everything

    again = report(scene, "--output", str(output))
    assert again.exit_code == 2
    assert "File exists" in again.stderr


def test_without_an_agent_it_has_the_rest_and_says_so(scene: Scene) -> None:
    done = report(scene, "--output", "-", port=1)
    assert done.exit_code == 1
    parts = unpacked(done.stdout_bytes)
    assert "status.json" not in parts
    assert b"status.json: no agent answers at" in parts["missing.txt"]
    assert f"kernel/ip6tables-{scene.near.mode}-save.txt" in parts
    assert "missing: rendered.txt" in done.stderr


def test_what_it_asks_the_agent_for_is_in_the_index(scene: Scene) -> None:
    index = http_get(scene.near, "/")[1]
    for path in ("/explain", "/settings", "/rendered", "/metrics"):
        assert f"\n{path} " in index
