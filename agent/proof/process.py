"""What the process of a proof does: reads the kernel, takes the agent's objects, and answers what differs."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
import time
from pathlib import Path
from typing import cast

import msgspec

from agent.dataplane.iptables.tables.tables import TableError
from agent.dataplane.iptables.variant import Mode
from agent.kernel.ipset_errors import SetError
from agent.kube.model import Key
from agent.net import Family
from agent.proof import given
from agent.proof.difference import Answer
from agent.proof.prove import prove
from agent.proof.reading import read

READY = b"ready\n"
"""Said when the objects may come."""
_MOST_MEMORY = 1 << 30
"""Bytes that a proof may take of a node, whatever tenants have written."""


def run() -> None:
    """Prove what standard input tells of, and answer on standard output in JSON."""
    # Should memory run out, the agent is to live.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, most))
    # It ends before there is anything to collect.
    gc.disable()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # An agent that has ended wants no answer.
    with contextlib.suppress(BrokenPipeError):
        answers.write(READY)
        answers.write(msgspec.json.encode(_answer()))


def _answer() -> Answer:
    given_by = sys.stdin.buffer.read
    try:
        head = given.head(given_by)
        started = time.perf_counter()
        # At once: what the agent writes after it told of its objects is not theirs.
        reading = read(cast(Mode, head.mode), map(Family, head.families), frames=head.frames)
        seconds = time.perf_counter() - started
        found = prove(given.taken(given_by), reading, Key.of(head.pod) if head.pod else None)
        return Answer(msgspec.structs.replace(found, reading=seconds, processor=time.process_time()))
    except (TableError, SetError, OSError) as error:
        return Answer(error=f"the kernel cannot be read: {error}")
    except MemoryError:
        return Answer(error=f"it takes more than {_MOST_MEMORY >> 20} MB of memory")
    except (EOFError, msgspec.MsgspecError) as error:
        return Answer(error=str(error))
