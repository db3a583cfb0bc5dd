"""The version before: the agent as it was, which a node is upgraded from and goes back to.

It is run from its source, with the Python packages of this checkout. Its image is not built: what is tested
is whether the two versions get on with each other's rules, sets and files.
"""

from __future__ import annotations

import lzma
import re
import subprocess
from pathlib import Path

from agent import __version__
from tests.lab.cluster import ROOT

PACKED = Path(__file__).with_name("former.tar.xz")
"""``agent/`` as it was before the first version, packed by ``git archive``.

It is what is upgraded from until a version has been released, and wherever a checkout has no tag of that.
"""

_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def former(directory: Path) -> str:
    """Put the code of the version before into a directory; return its tag, or what stands for it."""
    name = _released_before(__version__)
    archive = None if name is None else _git("archive", "--format=tar", name, "agent")
    if archive is None:
        name, archive = PACKED.name, lzma.decompress(PACKED.read_bytes())
    subprocess.run(["tar", "--extract", "--directory", str(directory)], input=archive, check=True)
    return name or PACKED.name


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
