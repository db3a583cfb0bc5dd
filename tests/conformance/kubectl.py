"""A cluster as kubectl reaches it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from tests.lab.client import Json


class KubectlError(Exception):
    """kubectl failed; the text holds what it was asked and what it said."""


class Kubectl:
    """Runs a kubectl command, such as ``["kubectl", "--context=NAME"]``. Safe to use from several threads."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl; return what it printed. Raises KubectlError when it fails or is not there."""
        command = [*self.command, *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        except OSError as error:
            raise KubectlError(f"{self.command[0]} cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            # A whole program can be among the arguments.
            asked = " ".join(word if len(word) < 100 else "..." for word in command)
            raise KubectlError(f"{asked}\n{stdin}{done.stdout}{done.stderr}".rstrip())
        return done.stdout

    def get(self, *arguments: str) -> Json:
        """Return what ``kubectl get`` says of an object, or the List of several."""
        found: Json = json.loads(self.run("get", *arguments, "--output", "json"))
        return found

    def create(self, made: Json) -> None:
        """Create an object, whose every field must be known to the API server."""
        self.run("create", "--validate=strict", "--filename=-", stdin=json.dumps(made))

    def replace(self, made: Json) -> None:
        """Give an object another spec, whole."""
        self.run("replace", "--validate=strict", "--filename=-", stdin=json.dumps(made))

    def execute(self, namespace: str, pod: str, *command: str) -> str:
        """Run a command in a pod; return what it printed. Raises KubectlError when it fails."""
        return self.run("--namespace", namespace, "exec", pod, "--", *command)
