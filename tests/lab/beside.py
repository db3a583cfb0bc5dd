"""Something that is done again and again beside a test, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from agent.closing import Closing
from tests.lab.place import LabError


class Beside(Closing):
    """Calls a function again and again from :meth:`start` to :meth:`close`, or in a ``with`` block.

    ``pause`` says how many seconds to wait before each call. The first error ends it; :meth:`close` then
    raises LabError, with ``what``, because all that was seen later was seen without it.
    """

    def __init__(self, call: Callable[[], None], pause: Callable[[], float], what: str) -> None:
        self._call = call
        self._pause = pause
        self._what = what
        self._end = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread, if it was started. Raises LabError if a call raised."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise LabError(f"{self._what} ended early") from self._error

    def _run(self) -> None:
        try:
            while not self._end.wait(self._pause()):
                self._call()
        except BaseException as error:
            self._error = error  # told when it ends
