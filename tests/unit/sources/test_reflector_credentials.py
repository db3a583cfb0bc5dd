"""The configuration and the credentials with which the API server is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from agent.sources.apiserver import connect
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.kubeconfig import ConfigurationError
from tests.unit.sources.scripted import (
    Running,
    Script,
    page,
    refuse,
    stream,
    wait,
    write_config,
)


def test_a_token_that_expired_is_read_again(
    script: Script, running: Callable[[], Running], kubeconfig: Path, url: str
) -> None:
    def expired(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        write_config(kubeconfig, url, {"token": "new"})
        refuse(401)(handler, query)

    script.lists = [expired, page(1)]
    script.watches = [stream()]
    write_config(kubeconfig, url, {"token": "old"})
    running()
    wait(lambda: len(script.bearers) == 3)
    assert script.bearers == ["Bearer old", "Bearer new", "Bearer new"]


@pytest.mark.parametrize("token", ["two\nlines", "ключ"])
def test_a_token_that_no_header_can_carry_is_named(url: str, kubeconfig: Path, token: str) -> None:
    """It is one that is not written whole, or of another file; the next one is read soon."""
    write_config(kubeconfig, url, {"token": token})
    with pytest.raises(ConfigurationError, match="no credential: the token is more than one ASCII line"):
        Connection(str(kubeconfig)).get("/", {}, 1.0)


def test_an_exec_plugin_gives_the_token(
    script: Script, running: Callable[[], Running], kubeconfig: Path, url: str
) -> None:
    version = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "made"}}
    plugin = {"apiVersion": version, "command": "echo", "args": [json.dumps(credential)]}
    write_config(kubeconfig, url, {"exec": plugin})
    script.lists, script.watches = [page(1)], [stream()]
    running()
    wait(lambda: script.bearers)
    assert script.bearers[0] == "Bearer made"


def test_a_service_account_in_the_cluster_has_its_token_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config

    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first\n")
    ca.write_text("unused")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setattr(connect, "SERVICE_ACCOUNT", token)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    connection = Connection()
    connection._configuration = configuration = connect._load(None, None)
    assert configuration.host == "https://[fd00::1]:443"
    assert connection._headers()["Authorization"].lower() == "bearer first"
    token.write_text("second\n")
    for cell in configuration.refresh_api_key_hook.__closure__:
        # The package reads the file again after a minute: let that minute have passed.
        cell.cell_contents.token_expires_at = datetime.min
    assert connection._headers()["Authorization"].lower() == "bearer second"


CONTEXTS = "contexts: [{name: c, context: {cluster: k, user: u}}, {name: d}]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a kubeconfig; give a file of kind Config"),
        ("[]", "is not a kubeconfig; give a file of kind Config"),
        ("{kind: Pod}", "is not a kubeconfig; give a file of kind Config"),
        ("{", "is not YAML: "),
        ("current-context: nowhere", "has no contexts; give a file that kubectl can use"),
        (f"{CONTEXTS}current-context: nowhere", "has no context 'nowhere'; choose with --context: c, d"),
        (CONTEXTS, "has no current-context; choose with --context: c, d"),
        (f"{CONTEXTS}current-context: c", "names the cluster 'k', which is not there; it has no clusters"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Connection(str(path)).get("/", {}, 1)
    assert str(caught.value).startswith("no usable API server configuration: ")
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_no_configuration_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="kubeconfig /no/where: no such file; correct the path"):
        Connection("/no/where").get("/", {}, 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="none found") as caught:
        Connection().get("/", {}, 1)
    for words in (str(tmp_path / ".kube/config"), "serviceaccount", "--kubeconfig", "--manifests"):
        assert words in str(caught.value)


def test_a_configuration_that_appears_later_is_taken_up(script: Script, url: str, tmp_path: Path) -> None:
    script.lists, script.watches = [page(1)], [stream()]
    found = Running(tmp_path / "later")
    try:
        wait(lambda: "no usable API server configuration" in found.reflector.state().fault)
        write_config(tmp_path / "later", url, {"token": "t"})
        wait(lambda: found.reflector.state().synced)
    finally:
        found.stop()
