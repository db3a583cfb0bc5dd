"""9: one tenant writes its worst; how long another's revocations take meanwhile, and the memory."""

from __future__ import annotations

import functools
import json
import statistics
import sys
import tempfile
from pathlib import Path

from tests.chaos.attacks import ATTACKS
from tests.chaos.hostile import FEWEST, Told
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.lab.children import dies_with_us
from tests.lab.cluster import ROOT
from tests.lab.netns import Netns

MEDIAN_MS, WORST_MS, WORST_OF_POLICIES_MS = 20.0, 50.0, 100.0
"""Of processor time between a revocation's event and the kernel, as docs/guarantees.md has it."""
MEMORY_MB = 400.0
GARBAGE = 100
"""Objects that refer to themselves in a circle: more would be a leak."""
_SECONDS = {Length.LONG: 10.0, Length.SHORT: 2.0}


def attacked(kind: str, length: Length) -> Outcome:
    """Let a tenant do its worst, of one kind."""
    seconds = _SECONDS[length]
    with tempfile.TemporaryDirectory() as directory:
        netns = Netns("hostile", {"XTABLES_LOCKFILE": str(Path(directory) / "lock"), "PYTHONPATH": str(ROOT)})
        try:
            command = [sys.executable, "-m", "tests.chaos.hostile", kind, str(seconds)]
            told = Told(**json.loads(netns.run(dies_with_us(command)).splitlines()[-1]))
        finally:
            netns.close()
    most = WORST_OF_POLICIES_MS if kind == "policies" else WORST_MS
    median, worst, peak = statistics.median(told.work), max(told.work), told.memory[1]
    broken = []
    if len(told.work) < FEWEST:
        broken.append(f"{kind}: only {len(told.work)} revocations were made in {seconds:.0f} s")
    if length is Length.LONG and (median > MEDIAN_MS or worst > most):
        broken.append(f"{kind}: a revocation took {median:.0f} ms of processor time, {worst:.0f} at most")
    if peak > MEMORY_MB:
        broken.append(f"{kind}: {peak:.0f} MB of memory")
    if told.garbage > GARBAGE:
        broken.append(f"{kind}: {told.garbage} objects were left to the garbage collector")
    note = (
        f"{told.events:,} events; {len(told.work)} revocations took {median:.1f} ms of processor time, "
        f"{worst:.0f} at most, {max(told.beside):.0f} with commands that ran beside "
        f"({statistics.median(told.took):.1f} and {max(told.took):.0f} ms on this busy machine); "
        f"{peak:.0f} MB at the peak"
    )
    return Outcome(note=note, broken=tuple(broken))


SCENARIOS = tuple(
    Scenario(
        promise="9.1",
        also=("9.2",),
        name=f"a tenant's worst: {kind}",
        run=functools.partial(attacked, kind),
        seconds=20,
        short=kind == "events",
        alone=True,
    )
    for kind in ATTACKS
)
