"""``make release``: what it makes of the image, twice the same, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import release.image
from agent import __version__
from tests.deploy.stage import DEPLOY
from tests.lab.cluster import ROOT, python_of
from tests.lab.image import Image
from tests.lab.kube_build import kubectl

NAME = "registry.example/netpol-agent"
STEM = f"netpol-agent-{__version__}"
WHEN = "2026-02-03T04:05:06Z"
_NOT_COPIED = (".git", *(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()))

Releasing = Callable[..., subprocess.CompletedProcess[str]]


def committed(directory: Path) -> None:
    """Make a repository of one commit of this checkout, with a dated section of this version."""
    shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(*_NOT_COPIED), symlinks=True)
    changes = directory / "CHANGELOG.md"
    dated, number = re.subn(
        r"^## \[(Unreleased\]: )?" + re.escape(__version__) + r".*$",
        f"## [{__version__}] - 2026-02-03",
        changes.read_text(),
        flags=re.MULTILINE,
    )
    assert number == 1, "CHANGELOG.md has one section of this version"
    changes.write_text(dated)
    who = [f"--config-env=user.{key}=WHO" for key in ("name", "email")]
    environment = {**os.environ, "WHO": "test", "GIT_COMMITTER_DATE": WHEN, "GIT_AUTHOR_DATE": WHEN}
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", "-C", str(directory), *who, *command], env=environment, check=True)


@pytest.fixture(scope="module")
def releasing(built: Image, tmp_path_factory: pytest.TempPathFactory) -> Releasing:
    """Make a release, of the image that is built already, in a checkout."""
    programs = tmp_path_factory.mktemp("bin")
    (programs / "kubectl").symlink_to(kubectl())

    def made(checkout: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "release", "--image", str(built.layout), "--name", NAME]
        environment = os.environ | python_of(checkout) | {"PATH": f"{programs}:{os.environ['PATH']}"}
        return subprocess.run(
            [*command, "--output", str(checkout / "dist")],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )

    return made


class Released(NamedTuple):
    """A release: the checkout it was made in, and what was said."""

    checkout: Path
    said: str

    @property
    def dist(self) -> Path:
        return self.checkout / "dist"

    def files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.dist.iterdir()}


def released(releasing: Releasing, checkout: Path) -> Released:
    committed(checkout)
    done = releasing(checkout)
    assert done.returncode == 0, done.stderr
    return Released(checkout, done.stdout)


@pytest.fixture(scope="module")
def first(releasing: Releasing, tmp_path_factory: pytest.TempPathFactory) -> Released:
    return released(releasing, tmp_path_factory.mktemp("release") / "checkout")


def test_two_runs_give_equal_bytes_of_all_that_a_release_has(
    built: Image, releasing: Releasing, first: Released, tmp_path: Path
) -> None:
    files = first.files()
    again = released(releasing, tmp_path / "another").files()
    assert files.keys() == again.keys()
    assert [name for name, content in files.items() if content != again[name]] == []
    arch = release.image.layout(built.layout).config["architecture"]
    assert files.keys() == {
        *(f"{STEM}-{arch}.oci.tar", f"{STEM}-{arch}.cdx.json", f"{STEM}-notes.md", "SHA256SUMS"),
        *(f"{STEM}{part}.yaml" for part in ("", "-replace-kube-router", "-routed-cni")),
    }
    assert [name for name in files if name not in first.said] == []


def test_what_it_makes_is_of_this_image(built: Image, first: Released) -> None:
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    subprocess.run(check, cwd=first.dist, check=True)
    sums = first.files().pop("SHA256SUMS").decode().splitlines()
    assert {line.split()[1] for line in sums} == first.files().keys() - {"SHA256SUMS"}
    layout = release.image.layout(built.layout)
    assert layout.digest in first.said
    overlays = [f"-{path.name}" for path in (DEPLOY / "overlays").iterdir()]
    for part in ("", *overlays):
        objects = list(yaml.safe_load_all((first.dist / f"{STEM}{part}.yaml").read_text()))
        pods = [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "DaemonSet"]
        images = {c["image"] for p in pods for c in [*p["containers"], *p.get("initContainers", ())]}
        assert images == {f"{NAME}@{layout.digest}"}
    (notes,) = first.dist.glob("*-notes.md")
    assert notes.read_text().startswith(f"# netpol-agent {__version__}, 2026-02-03\n\n### Added\n")


def test_its_bill_of_materials_has_every_package_of_the_image(built: Image, first: Released) -> None:
    # Here, since it takes two seconds to import, on every worker.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (file,) = first.dist.glob("*.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text()) is None
    found = {
        kind: {
            (part["name"], part["version"])
            for part in json.loads(file.read_text())["components"]
            if part.get("purl", "").startswith(f"pkg:{kind}/")
        }
        for kind in ("deb", "pypi")
    }
    query = ["dpkg-query", f"--admindir={built.files}/var/lib/dpkg", "--show", "--showformat"]
    form = "${db:Status-Abbrev} ${Package} ${Version}\\n"
    listed = subprocess.run([*query, form], capture_output=True, text=True, check=True).stdout.splitlines()
    assert found["deb"] == {tuple(line.split()[1:]) for line in listed if line.startswith("ii")}
    assert {"iptables", "ipset", "python3"} <= {name for name, _ in found["deb"]}
    installed = [path.name for path in built.files.glob("opt/netpol-agent/lib/*/site-packages/*.dist-info")]
    assert len(found["pypi"]) == len(installed) - 1, "all but the agent itself"
    locked = re.findall(r"^([\w.-]+)==(\S+)", (DEPLOY / "requirements.txt").read_text(), re.MULTILINE)
    assert found["pypi"] <= {(re.sub(r"[-_.]+", "-", name), version) for name, version in locked}


def test_a_dirty_tree_is_refused_and_what_there_was_stays(releasing: Releasing, first: Released) -> None:
    before = first.files()
    (first.checkout / "left.txt").write_text("left\n")
    done = releasing(first.checkout)
    (first.checkout / "left.txt").unlink()
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the tree is not clean: left.txt.")
    assert done.stdout == ""
    assert first.files() == before
