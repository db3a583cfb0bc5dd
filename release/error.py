"""Why no release is made, and what to do about it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence


class ReleaseError(Exception):
    """No release can be made: what is wrong, and the remedy, in one or two lines for a person."""


def run(command: Sequence[str], *, missing: str, failed: str) -> str:
    """Run a command; return what it printed.

    Raises ReleaseError with one of two remedies: for a command that is not there, and for one that fails.
    """
    # buildah starts programs that only root's path has.
    environment = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError:
        raise ReleaseError(f"{command[0]} is not installed: {missing}") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-4000:]
        what = f"{' '.join(command)} ended with code {done.returncode}"
        raise ReleaseError(f"{what}: {failed}\n{said}")
    return done.stdout
