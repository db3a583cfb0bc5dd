"""Running scenarios, each in a process of its own, some at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

from tests.chaos.scenario import Length, Outcome, Scenario
from tests.lab.children import dies_with_us
from tests.lab.cluster import ROOT

_LEAST_SECONDS, _TIMES = 240.0, 4.0
"""How long a scenario may take before it is ended: so long, or so many times what it takes as a rule."""


@dataclass(frozen=True)
class Result:
    """What became of a scenario, after ``seconds``. ``failed``: why it could not be shown."""

    scenario: Scenario
    outcome: Outcome
    seconds: float
    failed: str = ""

    @property
    def held(self) -> bool:
        """Whether the promise held; not so either where it could not be shown."""
        return not self.failed and not self.outcome.broken


def run_all(
    scenarios: Sequence[Scenario], length: Length, workers: int, running: dict[str, float]
) -> Iterator[Result]:
    """Run scenarios, the longest first and those that run alone at last; give each result as it comes.

    Whoever goes away before the last does not wait: what runs ends by itself, and nothing more is begun.
    ``running`` holds meanwhile the titles of those that run, and when they began (monotonic seconds).
    """
    turns = sorted(scenarios, key=lambda scenario: -scenario.seconds)
    for at_once, some in (
        (workers, [found for found in turns if not found.alone]),
        (1, [found for found in turns if found.alone]),
    ):
        pool = ThreadPoolExecutor(at_once)
        try:
            futures: list[Future[Result]] = [pool.submit(_run, found, length, running) for found in some]
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(scenario: Scenario, length: Length, running: dict[str, float]) -> Result:
    began = running[scenario.title] = time.monotonic()
    command = [sys.executable, "-m", "tests.chaos", "--one", scenario.title, "--length", length.value]
    try:
        done = subprocess.run(
            dies_with_us(command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(_LEAST_SECONDS, _TIMES * scenario.seconds),
        )
    except subprocess.TimeoutExpired as error:
        return Result(scenario, Outcome(), time.monotonic() - began, f"it has not ended: {error}")
    finally:
        del running[scenario.title]
    seconds = time.monotonic() - began
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        outcome = Outcome(**{**answer, "broken": tuple(answer["broken"])})
    except (ValueError, IndexError, KeyError, TypeError):
        failed = f"it has failed ({done.returncode}):\n{(done.stdout + done.stderr)[-4000:].strip()}"
        return Result(scenario, Outcome(), seconds, failed)
    return Result(scenario, outcome, seconds)


def run_one(scenario: Scenario, length: Length) -> None:
    """Run a scenario in this process, and print what it has shown as a line of JSON."""
    try:
        outcome = scenario.run(length)
    except AssertionError as error:
        outcome = Outcome(broken=(str(error) or "an assertion of the scenario does not hold",))
    print(json.dumps(asdict(outcome)), flush=True)
