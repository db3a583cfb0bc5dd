"""What holds for every test: where CI is set, a test that cannot run is a failure."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import workers

# A busy machine is slow: how long an example takes says nothing of what it shows.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

# A shell has what it starts in the background ignore this, and all that starts: nothing could be ended.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Some machines set this: each of the hundreds of agents that are started would compile all of itself anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Nothing that is collected goes before the end: looking at it again and again is in vain.
gc.disable()

# Asks rich for colour also where output is no terminal; tests look at what is printed without it.
os.environ.pop("FORCE_COLOR", None)


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark of pytest-xdist, also where that is switched off, as it is for mutations."""
    config.addinivalue_line("markers", "xdist_group(name): runs on one worker with the others of this name")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long where workers share the tests; see :mod:`tests.workers`."""
    if hasattr(config, "workerinput"):
        items.sort(key=workers.turn)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking at thousands of tests, which stay to the end, from now on."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect garbage again, also where workers have collected the tests."""
    gc.enable()


Measured = Callable[[str], None]
"""Takes a line about what a test has measured, which is printed when all have run."""


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    return lambda line: request.node.user_properties.append(("measured", line))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = [
        text
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, text in report.user_properties
        if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI: what did not run there has shown nothing."""
    del item, call
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself."""
    del collector
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") and report.skipped:
        reason: Any = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} cannot run, and CI is set: {reason}"
