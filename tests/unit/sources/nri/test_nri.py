"""The plugin's side of NRI, byte by byte, and what it answers a runtime that a test plays.

That NRI's own library reads and writes the same bytes is shown by tests/cluster/test_early_addresses.py.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kube.model import Key
from agent.sources.nri import messages
from agent.sources.nri.messages import Sandbox
from agent.sources.nri.plugin import NriPlugin, NriState
from agent.sources.nri.protobuf import MalformedError, bytes_field, fields, number_field
from agent.sources.nri.trunk import LARGEST, Message, Trunk

V4, V6 = bytes((10, 1, 0, 2)), bytes((0xFD, 1)) + bytes(13) + b"\2"
POD = Sandbox("c1", Key("shop", "web"), "u1", (V4, V6))


def sandbox(**more: bytes) -> bytes:
    """Encode a PodSandbox; ``more`` is appended."""
    return b"".join(
        (
            bytes_field(1, b"c1"),
            bytes_field(2, b"web"),
            bytes_field(3, b"u1"),
            bytes_field(4, b"shop"),
            number_field(9, 4711),
            bytes_field(10, b"10.1.0.2"),
            bytes_field(10, b"fd01::2"),
            *more.values(),
        )
    )


def annotation(key: bytes, value: bytes) -> bytes:
    return bytes_field(6, bytes_field(1, key) + bytes_field(2, value))


def test_a_sandbox_is_read() -> None:
    assert messages.sandbox_of(bytes_field(1, sandbox())) == POD
    assert messages.state_change_of(number_field(1, 2) + bytes_field(2, sandbox())) == (2, POD)
    assert messages.sandbox_of(b"") is None


@pytest.mark.parametrize(("source", "static"), [(b"api", False), (b"file", True), (b"http", True)])
def test_a_pod_of_a_file_of_the_node_is_told_apart(source: bytes, static: bool) -> None:
    found = messages.sandbox_of(bytes_field(1, sandbox(a=annotation(b"kubernetes.io/config.source", source))))
    assert found == POD._replace(static=static)


def test_a_subscription_is_to_the_begin_and_the_end_of_sandboxes_and_stays_registered() -> None:
    assert dict(fields(messages.subscription())) == {2: 0b11, 3: number_field(2, 1)}


def test_numbers_of_any_size_come_back() -> None:
    for value in (0, 1, 127, 128, 300, 1 << 32, (1 << 64) - 1):
        assert list(fields(number_field(3, value))) == [(3, value)]


@pytest.mark.parametrize(
    "message",
    [b"\x08", b"\x08" + b"\xff" * 11, b"\x0a\x05abc", b"\x0b", b"\x09abc", b"\x0a\xff\xff\xff\xff\x7f"],
)
def test_bytes_that_are_no_message_are_refused(message: bytes) -> None:
    with pytest.raises(MalformedError):
        list(fields(message))


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(20.0)
        yield ours, theirs


def test_messages_arrive_in_whatever_pieces_their_bytes_come() -> None:
    with pair() as (ours, theirs):
        first, second = Message(1, 1, 1, b"x" * 5000), Message(2, 3, 2, b"")
        body = struct.pack(">IIBB", 5000, 1, 1, 0) + first.body
        for at in range(0, len(body), 1700):
            piece = body[at : at + 1700]
            theirs.sendall(struct.pack(">II", 1, len(piece)) + piece)
        theirs.sendall(struct.pack(">II", 9, 3) + b"abc")
        Trunk(theirs).send(second)
        trunk = Trunk(ours)
        assert [trunk.receive(), trunk.receive()] == [first, second]
        theirs.close()
        assert trunk.receive() is None


@pytest.mark.parametrize(
    "sent", [struct.pack(">II", 1, LARGEST + 11), struct.pack(">IIIIBB", 1, 10, LARGEST + 1, 1, 1, 0)]
)
def test_what_is_larger_than_a_message_may_be_is_refused(sent: bytes) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(sent)
        with pytest.raises(MalformedError):
            Trunk(ours).receive()


class Runtime:
    """A runtime that a test plays, and the plugin that registers with it."""

    def __init__(self, path: Path) -> None:
        self.asked: list[Sandbox] = []
        self.ended: list[Sandbox] = []
        self.waits: list[float] = []
        self.enforces = True
        self.time, self.telling = 0.0, 0.0
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.settimeout(20.0)
        self.plugin = NriPlugin(path, self._began, self.ended.append, self._enforced, lambda: self.time)
        self.plugin.start()
        self._numbers = iter(range(1, 100, 2))

    def _began(self, found: Sandbox) -> Sandbox | None:
        self.asked.append(found)
        self.time += self.telling
        return found if found.addresses else None

    def _enforced(self, found: Sandbox, seconds: float) -> bool:
        del found
        self.waits.append(seconds)
        return self.enforces

    def accept(self) -> None:
        """Let the plugin register, and configure it."""
        self._socket, _ = self._listening.accept()
        self._socket.settimeout(20.0)
        self.trunk = Trunk(self._socket)
        registered = self.trunk.receive()
        assert registered is not None
        call = messages.call_of(registered.body)
        assert (registered.connection, call.service, call.method) == (2, messages.RUNTIME, "RegisterPlugin")
        assert list(fields(call.payload)) == [(1, b"netpol-agent"), (2, b"90")]
        self.trunk.send(Message(2, registered.stream, 2, messages.answer(b"")))
        said = bytes_field(2, b"containerd") + bytes_field(3, b"2.1") + number_field(5, 1000)
        assert self.call("Configure", said) == messages.answer(messages.subscription())

    def call(self, method: str, payload: bytes, seconds: float = 9.0) -> bytes:
        number = next(self._numbers)
        request = messages.call(messages.PLUGIN, method, payload, seconds)
        self.trunk.send(Message(1, number, 1, request))
        answer = self.trunk.receive()
        assert answer is not None
        assert (answer.connection, answer.stream, answer.kind) == (1, number, 2)
        return answer.body

    def send(self, some: bytes) -> None:
        self._socket.sendall(some)

    def close(self) -> None:
        self.plugin.stop()
        self._socket.close()
        self._listening.close()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path / "nri.sock")
    made.accept()
    yield made
    made.close()


def test_a_runtime_is_answered_when_the_pod_is_isolated(runtime: Runtime) -> None:
    assert runtime.call("RunPodSandbox", bytes_field(1, sandbox())) == messages.answer(b"")
    assert runtime.asked == [POD]
    assert runtime.waits == [0.8]
    runtime.call("StateChange", number_field(1, 1) + bytes_field(2, sandbox()), 0.5)
    assert runtime.waits == [0.8, 0.4]
    runtime.call("StopPodSandbox", bytes_field(1, sandbox()))
    assert runtime.ended == [POD]
    state = runtime.plugin.state()
    assert (state.runtime, state.answered) == ("containerd 2.1", {"enforced": 2, "late": 0, "skipped": 0})
    assert state.fault == ""


@pytest.mark.guarantee("1.4")
def test_requests_that_come_in_one_piece_are_all_answered(runtime: Runtime) -> None:
    sent = b""
    for number in (71, 73):
        request = messages.call(messages.PLUGIN, "RunPodSandbox", bytes_field(1, sandbox()), 9.0)
        body = struct.pack(">IIBB", len(request), number, 1, 0) + request
        sent += struct.pack(">II", 1, len(body)) + body
    runtime.send(sent)
    answers = [runtime.trunk.receive(), runtime.trunk.receive()]
    assert [answer and answer.stream for answer in answers] == [71, 73]


@pytest.mark.guarantee("1.4")
def test_a_runtime_is_answered_in_time_where_the_kernel_does_not_enforce_yet(runtime: Runtime) -> None:
    runtime.enforces = False
    assert runtime.call("RunPodSandbox", bytes_field(1, sandbox())) == messages.answer(b"")
    state = runtime.plugin.state()
    assert state.late == 1
    assert "1 pods were started before the kernel enforced their policies, last shop/web" in state.fault


@pytest.mark.guarantee("1.4")
def test_what_telling_takes_is_a_part_of_the_time(runtime: Runtime) -> None:
    runtime.telling = 0.75
    for _ in range(2):
        runtime.call("RunPodSandbox", bytes_field(1, sandbox()))
        runtime.telling = 2.0
    assert runtime.waits == [pytest.approx(0.05), 0.0]


def test_pods_without_an_address_and_of_files_are_not_waited_for(runtime: Runtime) -> None:
    runtime.call("RunPodSandbox", bytes_field(1, bytes_field(1, b"c2")))
    static = sandbox(a=annotation(b"kubernetes.io/config.source", b"file"))
    runtime.call("RunPodSandbox", bytes_field(1, static))
    runtime.call("RunPodSandbox", b"")
    assert runtime.waits == []
    assert runtime.plugin.state().skipped == 2


def test_other_calls_are_answered(runtime: Runtime) -> None:
    pods = bytes_field(1, sandbox())
    assert runtime.call("Synchronize", pods) == messages.answer(b"")
    assert runtime.call("Synchronize", pods + number_field(3, 1)) == messages.answer(number_field(2, 1))
    assert runtime.call("Shutdown", b"") == messages.answer(b"")
    assert messages.refused(runtime.call("CreateContainer", b"")) == "no method CreateContainer"


def test_a_plugin_that_was_dropped_registers_again(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sources.nri.plugin.LOOK_EVERY", 0.01)
    runtime._socket.close()
    runtime.accept()
    runtime.call("RunPodSandbox", bytes_field(1, sandbox()))
    assert runtime.plugin.state().runtime == "containerd 2.1"


def test_a_runtime_that_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nri.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(20.0)
        plugin = NriPlugin(path, lambda found: found, lambda _: None, lambda *_: True)
        plugin.start()
        theirs, _ = listening.accept()
        with theirs:
            trunk = Trunk(theirs)
            assert trunk.receive() is not None
            trunk.send(Message(2, 1, 2, messages.refusal(9, "no such index")))
            theirs.settimeout(20.0)
            assert trunk.receive() is None
        waiting = threading.Event()
        for _ in range(2000):
            if plugin.state().fault:
                break
            waiting.wait(0.01)
        plugin.stop()
    assert f"not registered with the runtime at {path}: it refuses: no such index" in plugin.state().fault


def test_where_there_is_no_socket_nothing_is_wrong(tmp_path: Path) -> None:
    plugin = NriPlugin(tmp_path / "nri.sock", lambda found: found, lambda _: None, lambda *_: True)
    plugin.start()
    assert plugin.state() == NriState(False, "", 0, 0, 0, 0.0)
    plugin.stop()
