"""What the image is made of is pinned by hash and is what pyproject.toml asks for: `make lock`."""

from __future__ import annotations

import re
import tomllib
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agent import __version__
from tests.docs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = {
    "requirements.txt": PROJECT["project"]["dependencies"],
    "requirements-build.txt": PROJECT["build-system"]["requires"],
}
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


class Pinned(NamedTuple):
    """One entry of a file of requirements."""

    version: str
    hashes: list[str]


def pinned(name: str) -> dict[str, Pinned]:
    """Return each entry of a file of requirements by its package."""
    text = (ROOT / "deploy" / name).read_text()
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


def test_nothing_but_the_agent_itself_is_installed_without_hashes() -> None:
    commands = re.findall(r"pip install ((?:.|\\\n)*?)(?:&&|\n)", DOCKERFILE.replace("\\\n", " "))
    assert len(commands) == 3
    for command in commands:
        words = set(command.split())
        assert "--require-hashes" in words or words >= {"--no-index", "--no-deps", "."}, command


def test_the_image_says_its_version() -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in DOCKERFILE
