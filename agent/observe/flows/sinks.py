"""Where reports go besides those who follow: the agent's log, or a file of bounded size."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

import msgspec

from agent import log
from agent.fault import Fault
from agent.observe.flows.flow import Flow, Report, as_json

_log = log.get(__name__)


def into_log(report: Report) -> None:
    """Write a report into the agent's log, a field for each of its own."""
    event = f"connection {report.verdict}" if isinstance(report, Flow) else "connections not logged"
    _log.info(event, **msgspec.to_builtins(report))


class FlowFile:
    """Writes reports into a file as lines of JSON. One that is full is set aside as ``FILE.1``.

    The file is readable by its owner alone. What cannot be written is given up, and :meth:`faults` says why.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._handler: _Rotating | None = None
        self._fault: tuple[Fault, ...] = ()

    def put(self, report: Report) -> None:
        """Write a report."""
        try:
            if self._handler is None:
                self._handler = _Rotating(self._path, maxBytes=self._size, backupCount=1, encoding="utf-8")
            self._handler.handle(logging.makeLogRecord({"msg": as_json(report).decode()}))
            self._fault = ()
        except OSError as error:
            self.close()
            fault = Fault(
                f"connections cannot be written to {self._path}: {error.strerror or error}",
                "make room, or choose another file with --flow-log; /flows has the last ones",
                blocking=False,
            )
            if self._fault != (fault,):
                _log.warning("connections cannot be written", fault=fault.what, remedy=fault.remedy)
            self._fault = (fault,)

    def faults(self) -> tuple[Fault, ...]:
        """Return why nothing is written, if so. For any thread."""
        return self._fault

    def close(self) -> None:
        if self._handler is not None:
            # What was to be written last may be lost with it.
            with contextlib.suppress(OSError):
                self._handler.close()
            self._handler = None


class _Rotating(logging.handlers.RotatingFileHandler):
    """Raises what goes wrong, and lets nobody but the owner read its file."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging gives it
        del record
        raise

    def _open(self) -> TextIOWrapper:
        # A new file must never be readable by others, not even for a moment.
        os.close(os.open(self.baseFilename, os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_WRONLY, 0o600))
        return super()._open()


def sink_of(path: Path | None, size: int) -> tuple[Callable[[Report], None], Callable[[], tuple[Fault, ...]]]:
    """Return what takes reports, and what says why it cannot: a file's, or the log's."""
    if path is None:
        return into_log, tuple
    file = FlowFile(path, size)
    return file.put, file.faults
