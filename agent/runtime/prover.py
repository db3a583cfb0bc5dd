"""The process in which a proof is made: started, told of all objects, and asked for what it finds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import agent
from agent.decoding import UndecodableError, decode
from agent.proof.difference import Answer, Result
from agent.proof.given import Given, pieces

PATIENCE = 60.0
"""Seconds that a process may take."""


class UnprovedError(Exception):
    """It cannot be proved now; the text says why."""


Child = Callable[[Callable[[], Given], str], Result]
"""Proves in another process: takes what gives the objects when it is ready, and of which pod alone."""


def in_a_process(given: Callable[[], Given], pod: str) -> Result:
    """Prove in a process of its own, which is made for it. Raises UnprovedError and OSError."""
    home = str(Path(agent.__file__).parent.parent)
    command = [sys.executable, "-P", "-m", "agent.proof"]
    environment = {**os.environ, "PYTHONPATH": home}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        limit = threading.Timer(PATIENCE, process.kill)
        limit.daemon = True
        limit.start()
        try:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
            if process.stdout.readline() != b"ready\n":
                raise UnprovedError("the process that proves ended at once; see the log")
            for piece in pieces(given(), pod):
                process.stdin.write(piece)
            process.stdin.close()
            answer = decode(process.stdout.read() or b"{}", Answer)
        except (BrokenPipeError, UndecodableError) as error:
            raise UnprovedError(f"the process that proves has failed: {error}; see the log") from error
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
    if answer.result is None:
        raise UnprovedError(answer.error or "the process that proves has ended early; see the log")
    return answer.result
