"""What is released: a commit of a clean tree, with its version, its time and its section of the changelog."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from release.error import ReleaseError, run

_VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE)
_HEADING = re.compile(r"^## \[([^\]]*)\](.*)$", re.MULTILINE)


class Source(NamedTuple):
    """A checkout that may be released.

    ``epoch`` is the time of the commit in seconds since 1970, which all files of the release have. ``notes``
    is the changelog's section of this version, without its heading; ``date`` stands in that heading.
    """

    root: Path
    version: str
    commit: str
    epoch: int
    date: str
    notes: str


def source(root: Path) -> Source:
    """Return what is released of a checkout.

    Raises ReleaseError when files differ from the commit, the changelog has no dated section of the version,
    or the version has been released from another commit.
    """
    dirty = _git(root, "status", "--porcelain").splitlines()
    if dirty:
        raise ReleaseError(
            f"the tree is not clean: {_some([line[3:] for line in dirty])}. "
            "A release is made of a commit: commit these files, or put them away (git stash -u)."
        )
    found = _VERSION.search((root / "agent/__init__.py").read_text())
    if found is None:
        raise ReleaseError('agent/__init__.py names no version: write __version__ = "X.Y.Z" into it.')
    version = found[1]
    commit = _git(root, "rev-parse", "HEAD").strip()
    tagged = _git(root, "tag", "--list", f"v{version}", "--format=%(objectname)%(*objectname)").strip()
    if tagged and not tagged.endswith(commit):
        raise ReleaseError(
            f"{version} was released from another commit, which has the tag v{version}. "
            f"To build it again: git checkout v{version}. To release this commit, raise the version in "
            "agent/__init__.py, deploy/Dockerfile and deploy/image/kustomization.yaml."
        )
    date, notes = section((root / "CHANGELOG.md").read_text(), version)
    epoch = int(_git(root, "show", "--no-patch", "--format=%ct", "HEAD"))
    return Source(root, version, commit, epoch, date, notes)


def section(changelog: str, version: str) -> tuple[str, str]:
    """Return the date and the text of a version's section of a changelog.

    The heading is that of Keep a Changelog: ``## [1.2.3] - 2026-01-31``. Raises ReleaseError when there is
    none, or no text below it.
    """
    for heading, following in pairwise([*_HEADING.finditer(changelog), None]):
        if heading is None or heading[1] != version:
            continue
        dated = re.fullmatch(r" - (\d{4}-\d{2}-\d{2})", heading[2])
        if dated is None:
            raise ReleaseError(
                f'CHANGELOG.md: "{heading[0]}" has no date: write "## [{version}] - YYYY-MM-DD".'
            )
        text = changelog[heading.end() : following.start() if following else None].strip()
        if not text:
            raise ReleaseError(
                f"CHANGELOG.md: the section of {version} is empty: say in it what has changed."
            )
        return dated[1], text + "\n"
    raise ReleaseError(
        f"CHANGELOG.md has no section of {version}: give what stands under [Unreleased] the heading "
        f'"## [{version}] - YYYY-MM-DD", and commit it.'
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _git(root: Path, *arguments: str) -> str:
    clone = "a release is made in a clone of the repository"
    return run(["git", "-C", str(root), *arguments], missing="apt-get install git", failed=clone)
