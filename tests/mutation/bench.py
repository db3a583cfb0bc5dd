"""A copy of the tree to break, and what its tests say of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.mutation.change import MisfitError, apply, check
from tests.mutation.model import Mutation, Selection

ROOT = Path(__file__).parents[2]
_COPIED = ("agent", "tests", "pyproject.toml")
_FAILED = 1
"""What pytest exits with when tests ran and some failed; more means that it could not run them."""
_LIMIT_SECONDS = 600.0

_ENVIRONMENT = {
    "HYPOTHESIS_PROFILE": "quick",
    "CLUSTERS": "400",
    "SEED": "0",
    # A mutation may leave a file as long and as old as it was: what was compiled from it must not stay.
    "PYTHONDONTWRITEBYTECODE": "1",
}
_FAILURE = re.compile(r"^(?:FAILED|ERROR) \S+?::(\S+)", re.MULTILINE)


class Run(NamedTuple):
    """What a selection said: ``failed`` is the test that did, "" for none; ``broken`` why none could run."""

    failed: str
    seconds: float
    broken: str = ""


class Outcome(NamedTuple):
    """What became of a mutation: what caught it, what did not though it should, and why none could tell."""

    mutation: Mutation
    caught_by: tuple[str, ...]
    missed_by: tuple[Selection, ...]
    seconds: float
    broken: str = ""

    @property
    def caught(self) -> bool:
        return not self.missed_by and not self.broken


def misfit(mutation: Mutation, root: Path = ROOT) -> str:
    """Say why a mutation does not fit the tree as it is, "" when it does."""
    try:
        check(mutation, root)
    except MisfitError as error:
        return str(error)
    return ""


class Bench:
    """A copy of the tree in a directory of its own. The tree itself is only ever read."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        for name in _COPIED:
            if (ROOT / name).is_dir():
                # With what is compiled: files keep their times, and one that is changed has another. What
                # another process is writing there now has another name meanwhile, and may be gone by then.
                shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("*.pyc.*"))
            else:
                shutil.copy(ROOT / name, directory / name)

    def run(self, selection: Selection) -> Run:
        """Run a selection of tests on the copy, until one fails."""
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
        command += ["-p", "no:xdist", "--hypothesis-seed=0", str(selection)]
        environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(self.root)}
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Run("", time.monotonic() - began, f"no answer within {_LIMIT_SECONDS:.0f} s")
        seconds = time.monotonic() - began
        if done.returncode == 0:
            return Run("", seconds)
        found = _FAILURE.search(done.stdout)
        if done.returncode != _FAILED or found is None:
            return Run("", seconds, (done.stdout + done.stderr).strip()[-2000:])
        return Run(found.group(1), seconds)

    def origin(self) -> Path:
        """Return where the tests on the bench take the agent from."""
        done = subprocess.run(
            [sys.executable, "-c", "import agent; print(agent.__file__)"],
            cwd=self.root,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(done.stdout.strip())

    def try_out(self, mutation: Mutation) -> Outcome:
        """Break the copy, run what must catch it, and mend the copy again."""
        changed = apply(mutation, self.root)
        file = self.root / changed.file
        whole = file.read_text()
        file.write_text(changed.text)
        try:
            runs = {selection: self.run(selection) for selection in mutation.by}
        finally:
            file.write_text(whole)
        return Outcome(
            mutation,
            tuple(run.failed for run in runs.values() if run.failed),
            tuple(selection for selection, run in runs.items() if not run.failed),
            sum(run.seconds for run in runs.values()),
            "\n".join(run.broken for run in runs.values() if run.broken),
        )


def unfit(mutations: Iterable[Mutation]) -> list[str]:
    """Return a line for each mutation that does not fit the tree as it is."""
    return [why for mutation in mutations if (why := misfit(mutation))]
