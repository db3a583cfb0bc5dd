"""A process that is forked of one that knows the agent is as one that is started on its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __version__
from tests.lab.cluster import wait_until
from tests.lab.lab import Lab
from tests.lab.node import Layout, Mode, Node
from tests.patience import PATIENCE

pytestmark = pytest.mark.xdist_group("forking")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Lab() as lab:
        yield lab.node("n", Layout.ROUTED, Mode.NFT)


def ended(node: Node, module: str, *arguments: str) -> tuple[int, str, str]:
    """Run a module to its end; return its exit code, what it printed, and its errors."""
    output, errors = (node.directory / name for name in ("output", "errors"))
    with output.open("wb") as out, errors.open("wb") as err:
        code = node.fork(module, *arguments, output=out, errors=err).wait(PATIENCE)
    return code, output.read_text(), errors.read_text()


def test_arguments_output_and_exit_code_are_those_of_a_command(node: Node) -> None:
    assert ended(node, "agent", "--version") == (0, f"netpol-agent {__version__}\n", "")
    code, output, errors = ended(node, "agent", "--no-such-option")
    assert (code, output) == (2, "")
    assert "--no-such-option" in errors
    code, _, errors = ended(node, "tests.no_such_module")
    assert code == 1
    assert "tests.no_such_module" in errors


def test_it_has_what_the_node_has_and_nothing_of_the_server(node: Node) -> None:
    """Looked at from outside: a web server of Python's library, which goes on until it is ended."""
    with (node.directory / "output").open("wb") as output:
        process = node.fork("http.server", "--bind", "127.0.0.1", "8000", output=output)

    def serves() -> bool:
        with node.netns.entered(), contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 8000), 10).close()
            return True
        return False

    try:
        wait_until(serves, 20)
        here = Path("/proc", str(process.pid))
        assert (here / "ns/net").stat().st_ino == os.fstat(node.netns.fd).st_ino
        (node.directory / "run/mark").touch()
        assert (here / "root/run/mark").exists()
        assert not Path("/run/mark").exists()
        assert (here / "root/sys/class/net/eth0").exists()
        assert os.getsid(process.pid) == process.pid
        # Standard input, output and errors, and the socket that it serves on.
        wait_until(lambda: len(os.listdir(here / "fd")) == 4)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
    finally:
        process.kill()
    assert process.wait(PATIENCE) == process.poll() == process.returncode == -signal.SIGKILL
    process.kill()  # nobody is there any more
