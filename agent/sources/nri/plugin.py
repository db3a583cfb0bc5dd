"""The plugin: registers with the runtime, and answers for a new sandbox when its pod is isolated."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent import log
from agent.kernel.thread import start
from agent.sources.nri.messages import (
    PLUGIN,
    RUN_POD_SANDBOX,
    RUNTIME,
    STOP_POD_SANDBOX,
    UNIMPLEMENTED,
    Call,
    Sandbox,
    answer,
    call,
    call_of,
    configuration_of,
    has_more,
    refusal,
    refused,
    registration,
    sandbox_of,
    state_change_of,
    subscription,
)
from agent.sources.nri.protobuf import MalformedError, number_field
from agent.sources.nri.trunk import PLUGIN_SIDE, REQUEST, RESPONSE, RUNTIME_SIDE, Message, Trunk

_log = log.get(__name__)

NAME, INDEX = "netpol-agent", "90"
"""How it is registered; plugins are called by their indices."""
LIMIT = 2.0
"""Seconds that a runtime waits for an answer where it does not say."""
SHARE = 0.8
"""The part of that after which it is answered in any case: a plugin that answers too late may be dropped."""
LOOK_EVERY = 5.0
"""Seconds between two looks for the socket, and two tries to register."""
RECENT = 3600.0
"""Seconds for which late answers are told of."""
_ANSWER_SECONDS = 5.0


class NriState(NamedTuple):
    """How it stands with the runtime.

    ``runtime``: what it is registered with; empty while it is not. ``found``: the socket is there.
    ``enforced``: sandboxes that were answered for when their pod was isolated; ``late``: those that were
    answered for without, since the time was over; ``skipped``: those without an address of their own.
    ``longest`` is in seconds. ``fault`` is empty while all is well.
    """

    found: bool
    runtime: str
    enforced: int
    late: int
    skipped: int
    longest: float
    fault: str = ""

    @property
    def answered(self) -> dict[str, int]:
        """How often the runtime was answered, by what the answer meant."""
        return {"enforced": self.enforced, "late": self.late, "skipped": self.skipped}


class NriPlugin:
    """Keeps itself registered at a socket, on a thread of its own.

    ``began`` takes a sandbox that was made and returns it with its addresses, None where it has none of its
    own; ``ended`` takes one that ends. ``enforced`` waits, for so many seconds at most, until the kernel
    enforces what holds for a sandbox's pod, and says whether it does.
    """

    def __init__(
        self,
        path: Path,
        began: Callable[[Sandbox], Sandbox | None],
        ended: Callable[[Sandbox], None],
        enforced: Callable[[Sandbox, float], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._began = began
        self._ended = ended
        self._enforced = enforced
        self._now = now
        self._seconds = LIMIT
        self._found = False
        self._runtime = ""
        self._fault = ""
        self._counts = {"enforced": 0, "late": 0, "skipped": 0}
        self._late_at = float("-inf")
        self._late_pod = ""
        self._longest = 0.0
        self._sleeps, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for end in (self._sleeps, self._wakes):
            weakref.finalize(self, os.close, end)
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="nri", daemon=True)
        start(self._thread)

    def stop(self) -> None:
        self._stopping = True
        os.write(self._wakes, b"\0")

    def threads(self) -> dict[str, bool]:
        thread = self._thread
        return {} if thread is None else {thread.name: thread.is_alive()}

    def state(self) -> NriState:
        """Return how it stands. For any thread."""
        fault = self._fault
        if not fault and self._now() - self._late_at < RECENT:
            fault = (
                f"{self._counts['late']} pods were started before the kernel enforced their policies, last "
                f"{self._late_pod}: the runtime waits {self._seconds:g} s for the agent; raise "
                "plugin_request_timeout of its NRI"
            )
        return NriState(self._found, self._runtime, **self._counts, longest=self._longest, fault=fault)

    def _run(self) -> None:
        while not self._stops():
            self._found = self._path.exists()
            if self._found:
                self._say(self._served())
            else:
                self._fault = ""
            with contextlib.suppress(OSError):
                select.select([self._sleeps], [], [], LOOK_EVERY)

    def _served(self) -> str:
        """Register and serve; return why that has ended."""
        try:
            self._serve()
            return f"the runtime closed the connection at {self._path}; trying again"
        except (OSError, MalformedError) as error:
            return f"not registered with the runtime at {self._path}: {error}; trying again"
        finally:
            self._runtime = ""

    def _say(self, fault: str) -> None:
        if fault != self._fault and not self._stops():
            _log.warning("not registered with the container runtime", detail=fault)
        self._fault = fault

    def _stops(self) -> bool:
        return self._stopping

    def _serve(self) -> None:
        """Register, and answer until the connection ends. Raises OSError and MalformedError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_ANSWER_SECONDS)
            sock.connect(str(self._path))
            trunk = Trunk(sock)
            request = call(RUNTIME, "RegisterPlugin", registration(NAME, INDEX), _ANSWER_SECONDS)
            trunk.send(Message(RUNTIME_SIDE, 1, REQUEST, request))
            while not self._stops():
                # A runtime that has registered a plugin may be silent for days.
                if self._runtime and not trunk.buffered and not self._wait(sock):
                    return
                message = trunk.receive()
                if message is None:
                    return
                self._take(trunk, message)

    def _wait(self, sock: socket.socket) -> bool:
        """Wait until the runtime says something, or this is to stop: then False."""
        readable, _, _ = select.select([sock.fileno(), self._sleeps], [], [])
        return sock.fileno() in readable and not self._stops()

    def _take(self, trunk: Trunk, message: Message) -> None:
        if message.connection == RUNTIME_SIDE:
            if message.kind == RESPONSE and (why := refused(message.body)):
                raise OSError(f"it refuses: {why}")
            return
        if message.kind != REQUEST:
            return
        asked = call_of(message.body)
        body = self._answer(asked)
        trunk.send(Message(PLUGIN_SIDE, message.stream, RESPONSE, body))

    def _answer(self, asked: Call) -> bytes:
        if asked.service != PLUGIN:
            return refusal(UNIMPLEMENTED, f"no service {asked.service[:100]}")
        if asked.method == "Configure":
            return self._configure(asked)
        if asked.method == "Synchronize":
            # What runs already has results, or a status.
            return answer(number_field(2, 1) if has_more(asked.payload) else b"")
        if asked.method in ("RunPodSandbox", "StopPodSandbox"):
            event = RUN_POD_SANDBOX if asked.method == "RunPodSandbox" else STOP_POD_SANDBOX
            self._happened(event, sandbox_of(asked.payload), asked.seconds)
            return answer(b"")
        if asked.method == "StateChange":
            self._happened(*state_change_of(asked.payload), asked.seconds)
            return answer(b"")
        if asked.method == "Shutdown":
            return answer(b"")
        return refusal(UNIMPLEMENTED, f"no method {asked.method[:100]}")

    def _configure(self, asked: Call) -> bytes:
        found = configuration_of(asked.payload)
        self._seconds = found.seconds or LIMIT
        self._runtime = f"{found.runtime} {found.version}".strip() or "a runtime"
        self._fault = ""
        _log.info("registered with the container runtime", runtime=self._runtime, seconds=self._seconds)
        return answer(subscription())

    def _happened(self, event: int, sandbox: Sandbox | None, seconds: float) -> None:
        if sandbox is None:
            return
        if event == STOP_POD_SANDBOX:
            self._ended(sandbox)
        elif event == RUN_POD_SANDBOX:
            self._begin(sandbox, SHARE * min(seconds or self._seconds, self._seconds))

    def _begin(self, sandbox: Sandbox, seconds: float) -> None:
        began = self._now()
        known = self._began(sandbox)
        if known is None or known.static:
            self._counts["skipped"] += 1
            return
        # While the loop has much to take, telling it of the sandbox takes a part of the time.
        done = self._enforced(known, max(0.0, seconds - (self._now() - began)))
        self._longest = max(self._longest, self._now() - began)
        if done:
            self._counts["enforced"] += 1
            return
        self._counts["late"] += 1
        self._late_at, self._late_pod = self._now(), str(sandbox.pod)
        _log.warning(
            "a pod starts before the kernel enforces its policies", pod=str(sandbox.pod), waited=seconds
        )
