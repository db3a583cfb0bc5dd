"""Who waits, on another thread, until the kernel enforces what holds for a pod."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from agent.kube.model import Kind, Pod
from agent.policy.engine import Engine
from agent.runtime.inbox import Inbox
from agent.sources.nri.messages import Sandbox


class _Waiter(NamedTuple):
    sandbox: Sandbox
    done: threading.Event


class Enforced:
    """Wakes who waits. ``enforces`` says whether the kernel holds all on which a pod's verdicts depend."""

    def __init__(self, engine: Engine, inbox: Inbox, enforces: Callable[[Pod], bool]) -> None:
        self._engine = engine
        self._inbox = inbox
        self._enforces = enforces
        self._waiters: list[_Waiter] = []

    def wait(self, sandbox: Sandbox, seconds: float) -> bool:
        """Wait until a sandbox's pod is known with its addresses, and the kernel enforces what holds for it.

        What else cannot be written, such as another pod's policy that the kernel refuses, holds up nobody.
        Return whether it was, within so many seconds. For any thread but the loop's own.
        """
        waiter = _Waiter(sandbox, threading.Event())
        self._inbox.call(lambda: self._add(waiter))
        done = waiter.done.wait(max(0.0, seconds))
        if not done:
            self._inbox.call(lambda: self._remove(waiter))
        return done

    def settle(self) -> None:
        """Look who need wait no longer: a step has been made, or a part of one."""
        for waiter in self._waiters:
            if self._is_done(waiter.sandbox):
                self._remove(waiter)
                waiter.done.set()

    def _add(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        self.settle()

    def _remove(self, waiter: _Waiter) -> None:
        self._waiters = [one for one in self._waiters if one is not waiter]

    def _is_done(self, sandbox: Sandbox) -> bool:
        found = self._engine.known(Kind.POD, sandbox.pod)
        if not isinstance(found, Pod) or (sandbox.uid and found.uid and sandbox.uid != found.uid):
            return False
        if not found.host_network and not found.finished and not set(sandbox.addresses) <= {*found.addresses}:
            return False
        return self._enforces(found)
