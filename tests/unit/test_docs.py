"""The documentation agrees with the code, and its links lead somewhere."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent import __version__
from agent.cli import main
from agent.kube.model import Kind
from agent.sources.source import SyncState
from agent.status.health import Health, readyz
from agent.status.health import text as health_text
from tests.docs import README, ROOT, readme, with_part

DOCUMENTS = sorted([README, *ROOT.glob("docs/*.md"), ROOT / "deploy/README.md", ROOT / "vagrant/README.md"])


def test_generated_parts_are_as_the_code_has_them() -> None:
    assert README.read_text() == readme(README.read_text()), "run make fmt"


def test_a_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="no part settings"):
        with_part("nothing", "settings", "table")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_named_exist(document: Path) -> None:
    for path in re.findall(r"`((?:agent|tests|examples|deploy)/[\w./-]+)`", document.read_text()):
        assert (ROOT / path).exists(), path


def test_every_command_is_in_the_readme_with_its_exit_codes() -> None:
    text = README.read_text()
    for name, command in main.commands.items():
        assert f"`netpol-agent {name}" in text
        assert "Exit codes: 0" in (command.help or ""), name


def test_every_option_in_the_readme_exists() -> None:
    helps = "".join(CliRunner().invoke(main, [name, "--help"]).output for name in main.commands)
    own = {"--layout"}  # the demo's
    for option in set(re.findall(r"`?(--[a-z][a-z-]+)", README.read_text())) - own:
        assert option in helps, option


def test_every_make_target_named_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README.read_text())) - {"both"} <= targets


def test_the_answer_of_readyz_in_the_readme_is_what_is_printed() -> None:
    names = ("links", "source-namespace", "source-networkpolicy", "source-pod", "source-probe")
    caches = {
        kind: SyncState(kind is not Kind.POD, 0, 5.0, 5.0) for kind in (*Kind,) if kind is not Kind.NODE
    }
    health = Health(5.0, 5.0, caches, applied=False, threads=dict.fromkeys(names, True))
    printed = health_text(readyz(health))
    assert textwrap.indent(printed, "    ") in README.read_text()


def test_the_image_is_set_with_the_tag_that_is_pushed() -> None:
    commands = (ROOT / "deploy/README.md").read_text()
    (pushed,) = re.findall(r"docker push (\S+)", commands)
    name, _, tag = pushed.rpartition(":")
    assert f"sed -i 's|newName: .*|newName: {name}|' deploy/image/kustomization.yaml\n" in commands
    assert tag == __version__
    assert f"    newTag: {tag}\n" in (ROOT / "deploy/image/kustomization.yaml").read_text()


def test_what_is_installed_to_run_is_what_is_run() -> None:
    """The agent does without the commands of ipset and conntrack: a node needs neither.

    The image has ipset for whoever looks around in it.
    """
    packages = (ROOT / "deploy/Dockerfile").read_text().rpartition("apt-get install")[2]
    assert "iptables" in packages
    assert "conntrack" not in packages
    for unused in ("ipset", "conntrack"):
        assert f"`{unused}`" not in README.read_text()
