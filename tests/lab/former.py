"""The version before: the agent as it was, which a node is upgraded from and goes back to.

It is run from its source, with the Python packages of this checkout. Its image is not built: what is tested
is whether the two versions get on with each other's rules, sets and files.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from agent import __version__
from tests.lab.cluster import ROOT
from tests.lab.place import LabError

FIRST = "487cd8ad05e48f49501831434b7278af20f2a285"
"""A commit before the first version: what is upgraded from until a version has been released."""

_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def former(directory: Path) -> str:
    """Put the code of the version before into a directory; return its tag, or its commit.

    A clone that does not reach back so far asks where it was cloned from. Raises LabError when that does not
    answer.
    """
    name = _released_before(__version__) or FIRST
    if _git("cat-file", "-e", f"{name}^{{commit}}") is None:
        _git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", name)
    if (archive := _git("archive", "--format=tar", name, "agent")) is None:
        raise LabError(
            f"the commit {name[:12]}, the version before, is not in this clone, and origin does not give it: "
            "clone the whole repository, or run git fetch --unshallow where origin answers"
        )
    subprocess.run(["tar", "--extract", "--directory", str(directory)], input=archive, check=True)
    return name


def _released_before(version: str) -> str | None:
    """Return the tag of the newest version that is older than this one, None when there is none."""
    tags = (_git("tag", "--merged", "HEAD") or b"").decode().split()
    released = {tuple(map(int, match.groups())): tag for tag in tags if (match := _TAG.fullmatch(tag))}
    older = [numbers for numbers in released if numbers < tuple(map(int, version.split(".")))]
    return released[max(older)] if older else None


def _git(*arguments: str) -> bytes | None:
    """Return what git prints, None when it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
