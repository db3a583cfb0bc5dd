"""What is loaded of the kubernetes package, each in a Python that has loaded nothing of it yet."""

from __future__ import annotations

import subprocess
import sys

from tests.lab.cluster import ROOT

ALL = (
    "kubernetes.client.configuration",
    "kubernetes.client.rest",
    "kubernetes.config.incluster_config",
    "kubernetes.config.kube_config",
)
LOADED = f"import sys; from agent.sources.apiserver.package import load; found = [*map(load, {ALL})]\n"


def told(code: str) -> str:
    """Return what code prints after all modules that read a configuration have been loaded."""
    command = [sys.executable, "-c", LOADED + code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_what_reads_a_configuration_is_loaded_and_nothing_that_takes_memory() -> None:
    heavy = ("requests", "oauthlib", "requests_oauthlib", "pydantic", "websocket", "kubernetes.client.models")
    assert told(f"print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_whoever_loads_the_package_afterwards_gets_it_whole_and_the_same_modules() -> None:
    code = (
        "import kubernetes\n"
        "print(callable(kubernetes.config.load_kube_config), kubernetes.client.CoreV1Api.__name__)\n"
        "print(kubernetes.client.ApiClient.__name__)\n"
        "print(kubernetes.client.Configuration is found[0].Configuration)\n"
        "from kubernetes.config import kube_config\n"
        "print(kube_config is found[3])\n"
    )
    assert told(code).split("\n") == ["True CoreV1Api", "ApiClient", "True", "True"]


def test_what_openid_connect_needs_is_loaded_when_it_is_used() -> None:
    code = (
        "read = found[3]\n"
        "print(read.oauthlib.oauth2.rfc6749.errors.InvalidClientIdError.__name__)\n"
        "print(type(read.OAuth2Session(client_id='one')).__name__)\n"
        "print(type(read.ApiClient(configuration=found[0].Configuration())).__name__)\n"
    )
    assert told(code).split("\n") == ["InvalidClientIdError", "OAuth2Session", "ApiClient"]
