"""A Debian to build images on, and how builds in it reach the packages that this machine reaches.

Where a machine gets its packages from, and by whose certificates, is its own: read from apt and pip here and
handed on, never written down.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.place import LabError

SUITES = {"12": "bookworm", "13": "trixie"}
# What Debian's slim images leave out.
_SLIM = [
    *(f"path-exclude=/usr/share/{name}/*" for name in ("doc", "groff", "info", "linda", "lintian", "man")),
    *("path-exclude=/usr/share/locale/*", "path-include=/usr/share/doc/*/copyright"),
]
_APT_OPTIONS = re.compile(r'Acquire::(?:Check-\S+|Retries|ForceIPv\d|https?::\S+) "[^"]+";')
_PIP_OPTIONS = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)
_LABELS = {"Debian": "", "Debian-Security": "-security"}


def base_command(release: str, target: str) -> list[str]:
    """Return the command that makes a release's base as a tar file: as much as is in Debian's slim image.

    It takes packages from the archives that this machine has, else from mmdebstrap's own choice.
    """
    suite = SUITES[release]
    sources = []
    form = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    for line in sorted(set(_lines("apt-get", "indextargets", "--format", form, "Created-By: Packages"))):
        origin, label, uri, *_ = [*line.split(" "), "", ""]
        if origin == "Debian" and label in _LABELS:
            sources.append(f"deb {uri} {suite}{_LABELS[label]} main")
    options = sorted(line for line in _lines("apt-config", "dump") if _APT_OPTIONS.fullmatch(line))
    return [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", "--skip=output/dev"),
        *(f"--dpkgopt={option}" for option in _SLIM),
        *(f"--aptopt={option}" for option in options),
        *(suite, target, *sources),
    ]


def build_secrets(directory: Path) -> list[str]:
    """Return buildah's options that hand a Dockerfile pip's configuration, written into a directory."""
    lines = ["[global]"]
    secrets: list[str] = []
    for line in _lines(sys.executable, "-m", "pip", "config", "list"):
        key, _, text = line.partition("=")
        name, value = key.rpartition(".")[2], str(ast.literal_eval(text))
        if name in _PIP_OPTIONS:
            lines.append(f"{name} = {' '.join(value.split())}")
        elif name == "cert" and not secrets:
            lines.append("cert = /run/secrets/ca.pem")
            secrets = ["--secret", f"id=ca.pem,src={value}"]
    file = directory / "pip.conf"
    file.touch(mode=0o600)
    file.write_text("\n".join([*dict.fromkeys(lines), ""]))
    return ["--secret", f"id=pip.conf,src={file}", *secrets]


def run(command: Sequence[str]) -> str:
    """Run a command; return what it printed. Raises LabError when it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed: .ci/packages python3 image installs it") from None
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    # mmdebstrap and buildah start programs of the system's.
    return {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}


def _lines(*command: str) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except OSError:
        return []
