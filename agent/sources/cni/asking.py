"""Pods that have a result and are not known: asked for by name, some each second, on a thread of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable

from agent import log
from agent.kernel.thread import start
from agent.kube.model import Key, Pod

_log = log.get(__name__)

PER_SECOND = 10.0
BURST = 20.0
"""So many questions may be asked at once, and so many each second."""
MOST = 1_000
"""Pods that wait to be asked for. A result more is one whose pod waits for the watch."""
AGAIN = 30.0
"""Seconds after which a pod is asked for again that the watch still has not told."""
PAUSE = 1.0
"""Seconds between two tries while the API server does not answer."""

Ask = Callable[[Key], Pod | None]
"""Returns a pod by its name, None where there is none. Raises what is told as the fault."""


class Asking:
    """Asks for pods and tells the answers. The thread starts with the first question.

    ``answered`` takes each answer; ``untold`` gives the pods to ask for again and again.
    """

    def __init__(
        self,
        ask: Ask,
        answered: Callable[[Key, Pod | None], None],
        untold: Callable[[], Iterable[Key]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._answered = answered
        self._untold = untold
        self._now = now
        self._changed = threading.Condition()
        self._waiting: dict[Key, None] = {}
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._tokens, self._filled = BURST, now()
        self.fault = ""
        """Why there is no answer now; empty while there is."""

    def want(self, key: Key) -> None:
        """Ask for a pod soon. For any thread; waits for nothing."""
        with self._changed:
            if self._stopped or len(self._waiting) >= MOST:
                return
            self._waiting[key] = None
            self._changed.notify()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="cni-asks", daemon=True)
                # Where the system has none to give, the next pod tries again.
                with contextlib.suppress(RuntimeError):
                    start(thread)
                    self._thread = thread

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def threads(self) -> dict[str, bool]:
        thread = self._thread
        return {} if thread is None else {thread.name: thread.is_alive()}

    def _run(self) -> None:
        again = self._now() + AGAIN
        while True:
            with self._changed:
                if not self._waiting and not self._stopped:
                    self._changed.wait(max(0.0, again - self._now()))
                if self._stopped:
                    return
                key = next(iter(self._waiting), None)
                if key is not None:
                    del self._waiting[key]
            if self._now() >= again:
                again = self._now() + AGAIN
                for one in self._untold():
                    self.want(one)
            if key is not None:
                self._ask_for(key)

    def _ask_for(self, key: Key) -> None:
        self._wait_for_turn()
        try:
            found = self._ask(key)
        except Exception as error:
            if str(error) != self.fault:
                _log.warning("a pod cannot be asked for by name", pod=str(key), detail=str(error))
            self.fault = str(error) or type(error).__name__
            self.want(key)
            with self._changed:
                if not self._stopped:
                    self._changed.wait(PAUSE)
            return
        self.fault = ""
        self._answered(key, found)

    def _wait_for_turn(self) -> None:
        now = self._now()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * PER_SECOND)
        self._filled = now
        if self._tokens < 1.0:
            with self._changed:
                if not self._stopped:
                    self._changed.wait_for(lambda: self._stopped, (1.0 - self._tokens) / PER_SECOND)
            self._tokens = 1.0
        self._tokens -= 1.0
