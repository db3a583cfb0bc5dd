"""A process that asks for the shortest slice: it keeps its priority."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from agent.kernel import slices

_ASK = """
import os
from agent.kernel.slices import shorten
os.nice(7)
print(shorten(), os.nice(0), os.sched_getscheduler(0), end=" ")
try:
    print(open("/proc/self/sched").read())
except OSError:
    pass
"""
"""A kernel that was built for it shows the slice there."""


def test_a_process_asks_for_the_shortest_slice_and_keeps_its_priority() -> None:
    before = os.nice(0)
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    taken, nice, policy, *_ = done.stdout.split()
    if taken == "False":
        # On a machine of another kind, or beneath a policy of its own.
        assert platform.machine() not in slices._NUMBER or os.sched_getscheduler(0) != os.SCHED_OTHER
        return
    assert (taken, int(nice), int(policy)) == ("True", min(before + 7, 19), os.SCHED_OTHER)
    shown = re.search(r"^se\.slice\s*:\s*(\d+)", done.stdout, re.MULTILINE)
    if shown is not None and _takes_slices():
        assert int(shown[1]) == 100_000


def _takes_slices() -> bool:
    release = re.match(r"(\d+)\.(\d+)", Path("/proc/sys/kernel/osrelease").read_text())
    return release is not None and (int(release[1]), int(release[2])) >= (6, 12)
