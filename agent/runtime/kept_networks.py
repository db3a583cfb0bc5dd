"""Keeps the networks in which new pods are closed, for a guard at the next boot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent import log
from agent.dataplane.backend import Report
from agent.net import Network
from agent.runtime import guard
from agent.runtime.calls import Calls

_log = log.get(__name__)


class KeptNetworks:
    """Writes them to the state directory when they have changed. Used by the main loop's thread."""

    def __init__(self, calls: Calls, directory: Path) -> None:
        self._calls = calls
        self._directory = directory
        self._kept: frozenset[Network] = frozenset()

    def after(self, noted: Callable[[Report], None]) -> Callable[[Report], None]:
        """Return what takes note of a sync's report, as another does, and keeps the networks."""

        def synced(report: Report) -> None:
            noted(report)
            self._keep()

        return synced

    def _keep(self) -> None:
        """Write what is closed now; where that is nothing, what was kept before stays."""
        networks = self._calls.backend.view().closing
        if not networks or networks == self._kept:
            return
        self._kept = networks
        try:
            guard.keep(networks, self._directory)
        except OSError as error:
            _log.warning("the networks of pods cannot be kept", error=error.strerror)
