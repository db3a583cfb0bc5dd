"""What may be released: a clean commit whose version has a section in the changelog."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from release.error import ReleaseError
from release.source import section, source

CHANGES = """# Changes

## [Unreleased]

## [1.2.0] - 2026-02-03

### Added

- A thing.

## [1.1.0] - 2026-01-02

- Another.
"""
EPOCH = 1_770_000_000


def git(root: Path, *arguments: str) -> str:
    when = f"{EPOCH} +0000"
    named = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dated = {f"GIT_{who}_DATE": when for who in ("AUTHOR", "COMMITTER")}
    alone = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | named | dated | alone,
    )
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/__init__.py").write_text('"""The agent."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    git(tmp_path, "init", "--quiet")
    committed(tmp_path)
    return tmp_path


def committed(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "one")


def test_a_clean_commit_has_all_that_a_release_is_made_of(root: Path) -> None:
    found = source(root)
    assert (found.version, found.date, found.epoch) == ("1.2.0", "2026-02-03", EPOCH)
    assert found.commit == git(root, "rev-parse", "HEAD").strip()
    assert found.notes == "### Added\n\n- A thing.\n"


def test_the_last_section_ends_with_the_file() -> None:
    assert section(CHANGES, "1.1.0") == ("2026-01-02", "- Another.\n")


@pytest.mark.parametrize("name", ["new.txt", "CHANGELOG.md"])
def test_a_dirty_tree_is_refused(root: Path, name: str) -> None:
    (root / name).write_text(CHANGES + "\n")
    with pytest.raises(ReleaseError, match=rf"not clean: {name}\. .*commit these files"):
        source(root)


def test_a_version_without_a_section_is_refused(root: Path) -> None:
    (root / "agent/__init__.py").write_text('__version__ = "1.3.0"\n')
    committed(root)
    with pytest.raises(ReleaseError, match=r"no section of 1\.3\.0: .*\[1\.3\.0\] - YYYY-MM-DD"):
        source(root)


@pytest.mark.parametrize(
    ("changelog", "what"),
    [
        ("## [1.2.0]\n\n- A thing.\n", "has no date"),
        ("## [1.2.0] - soon\n\n- A thing.\n", "has no date"),
        ("## [1.2.0] - 2026-02-03\n\n## [1.1.0] - 2026-01-02\n", "is empty"),
        ("## 1.2.0\n\n- A thing.\n", "no section"),
    ],
)
def test_a_section_needs_a_date_and_a_text(changelog: str, what: str) -> None:
    with pytest.raises(ReleaseError, match=what):
        section(changelog, "1.2.0")


@pytest.mark.parametrize("annotated", [[], ["--annotate", "--message", "1.2.0"]], ids=["light", "annotated"])
def test_a_version_is_released_from_one_commit_alone(root: Path, annotated: list[str]) -> None:
    git(root, "tag", *annotated, "v1.2.0")
    assert source(root).version == "1.2.0"
    (root / "more.txt").write_text("more\n")
    committed(root)
    with pytest.raises(ReleaseError, match=r"v1\.2\.0\. To build it again: git checkout v1\.2\.0"):
        source(root)


def test_a_version_has_to_be_named(root: Path) -> None:
    (root / "agent/__init__.py").write_text("")
    committed(root)
    with pytest.raises(ReleaseError, match="names no version"):
        source(root)


def test_what_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="in a clone of the repository"):
        source(tmp_path)
