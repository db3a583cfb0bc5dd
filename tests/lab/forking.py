"""Processes of the agent that begin as forks of one that has imported it already.

To import the agent takes a quarter of a second of a processor, and tests start hundreds of them. What such a
process does from there on is what ``python -m MODULE ARGUMENTS`` does. It is no test of the start itself: for
that there are tests/deploy and tests/chaos, which start the agent as a node does.

One server for each process of tests is started with the first fork, and ends with that process, as does all
that it has forked: each end of their socket is closed by the kernel whatever ends a process.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
"""In which Python imports the agent from this checkout, from any directory."""

KNOWN = (
    "agent.commands.cli",
    "agent.commands.migrate",
    "agent.dataplane.iptables.backend",
    "agent.dataplane.iptables.cleanup",
    "agent.runtime.start",
    "agent.sources.apiserver.source",
    "agent.sources.manifests.source",
)
"""What the server imports before it forks: what an agent imports in its first seconds."""

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_MOST = 1 << 20
"""Bytes of a request at most: the environment is most of it."""
_STATUS = struct.Struct("=i")


class _Request(NamedTuple):
    """What to fork. The descriptors of its namespace, output, errors and status come with it."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    run: str


class Forked:
    """A process that was forked; as of :class:`subprocess.Popen`, what tests ask of one."""

    def __init__(self, args: list[str], pid: int, pidfd: int, status: int) -> None:
        self.args = args
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            told = os.read(self._status, _STATUS.size)
            # Without a word the server has ended, and its children are killed with it.
            self.returncode = _STATUS.unpack(told)[0] if told else -signal.SIGKILL
            os.close(self._status)
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; one that has ended is sent none."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | Forked


class _Server:
    """The server, as its client sees it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.forking", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,
            )
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
        self._socket = ours
        self._busy = threading.Lock()

    def fork(self, request: _Request, *fds: int) -> Forked:
        """Have a process forked. Raises OSError when the server cannot."""
        status, told = os.pipe()
        try:
            with self._busy:
                _send(self._socket, json.dumps(request).encode(), [*fds, told])
                answer, pidfds = _receive(self._socket, 1)
        finally:
            os.close(told)
        if not pidfds:
            os.close(status)
            raise OSError(f"nothing is forked: {answer.decode() or 'the server has ended'}")
        return Forked(["python", "-m", request.module, *request.arguments], int(answer), pidfds[0], status)


_servers: dict[int, _Server] = {}
"""By the process whose it is: a fork of it needs another."""


def fork(
    module: str,
    arguments: Sequence[str],
    *,
    netns: int,
    run: Path,
    output: IO[Any],
    errors: IO[Any],
    environment: Mapping[str, str],
    directory: Path = ROOT,
) -> Forked:
    """Run a Python module in a process of its own, which dies with this one.

    It is in the network namespace of the descriptor ``netns``, leads a session, and has the directory ``run``
    as /run and a /sys of its namespace. Raises OSError when it cannot be started.
    """
    server = _servers.get(os.getpid())
    if server is None:
        server = _servers[os.getpid()] = _Server()
    request = _Request(module, list(arguments), dict(environment), str(directory), str(run))
    return server.fork(request, netns, output.fileno(), errors.fileno())


def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def _receive(sock: socket.socket, most: int) -> tuple[bytes, list[int]]:
    data, control, _, _ = sock.recvmsg(_MOST, socket.CMSG_SPACE(most * array.array("i").itemsize))
    fds = array.array("i")
    for level, kind, some in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(some[: len(some) - len(some) % fds.itemsize])
    return data, list(fds)


# The server


def serve(sock: socket.socket) -> _Request | None:
    """Fork what is asked for until the other end is closed, and tell of every child's end.

    Returns in each child, whose surroundings are as asked for, what to run there; None in the server.
    """
    children: dict[int, int] = {}
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if woken in ready:
            os.read(woken, 4096)
            _reap(children)
        if sock.fileno() not in ready:
            continue
        data, fds = _receive(sock, 4)
        if not data:
            return None
        request = _Request(*json.loads(data))
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sock.detach()
            _settle(request, *fds[:3])
            return request
        *given, children[child] = fds
        for fd in given:
            os.close(fd)
        pidfd = os.pidfd_open(child)
        _send(sock, str(child).encode(), [pidfd])
        os.close(pidfd)


def _reap(children: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            told = children.pop(pid)
            with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                os.write(told, _STATUS.pack(os.waitstatus_to_exitcode(status)))
            os.close(told)


def _settle(request: _Request, netns: int, output: int, errors: int) -> None:
    """Make a new child's surroundings what was asked for. Raises OSError."""
    server = os.getppid()
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server:
        sys.exit(1)
    os.setsid()
    _call("setns", netns, _CLONE_NEWNET)
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    _call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)
    _call("mount", request.run.encode(), b"/run", None, _MS_BIND, None)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)
    sys.argv[1:] = request.arguments


def _call(name: str, *arguments: bytes | int | None) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve; in a child, be the module that is asked for."""
    for name in KNOWN:
        importlib.import_module(name)
    # What is collected is written to, and would be copied in each child.
    gc.collect()
    gc.freeze()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
