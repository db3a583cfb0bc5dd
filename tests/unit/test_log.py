"""How events are written."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from agent import log
from agent.setting_values import LogFormat, LogLevel


class Terminal(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of standard error; within a test, since pytest puts its own before it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False)])
def test_colour_is_for_terminals_and_who_wants_it(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool
) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    log.configure(LogFormat.AUTO, LogLevel.INFO)
    log.get("here").info("done")
    assert "done" in terminal.getvalue()
    assert ("\x1b" in terminal.getvalue()) is coloured


def test_a_kernel_module_is_not_taken_for_where_the_event_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    log.configure(LogFormat.JSON, LogLevel.INFO)
    log.get("here").info("module loaded", module="xt_set")
    event = json.loads(terminal.getvalue())
    assert (event["logger"], event["module"]) == ("here", "xt_set")
