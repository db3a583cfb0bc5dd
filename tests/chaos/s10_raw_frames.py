"""10: a pod forges without a pause, by an agent with --guard-frames, while much else happens."""

from __future__ import annotations

import functools
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import NamedTuple

from agent.dataplane.frames import TABLE
from tests.chaos.forger import Forger
from tests.chaos.probe import Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import Stage, pod_manifest
from tests.lab.cluster import http_get, wait_until
from tests.lab.netns import CommandError
from tests.lab.node import Layout
from tests.lab.owned import held

_GUARD = "--guard-frames"
_MENDED = 3.0
"""Seconds: one until the kernel is asked whether anybody wrote, and two on a busy machine."""
_BREAKAGES = (
    f"flush table netdev {TABLE}",
    f"delete table netdev {TABLE}",
    f"insert rule netdev {TABLE} pod accept",
    f"flush set netdev {TABLE} senders",
    f"add table netdev {TABLE} {{ flags dormant; }}",
)


class _Tried(NamedTuple):
    """What became of what others did to the table: forged frames that arrived then, and how it was broken."""

    arrived: int
    broken: tuple[str, ...]
    note: str


def _guards_all(stage: Stage) -> Callable[[], bool]:
    return lambda: "[+]frames ok: guarded for " in http_get(stage.node, "/readyz")[1]


def _rules(stage: Stage) -> str:
    """Return the table without what its rules have counted."""
    listed = stage.node.run("nft", "list", "table", "netdev", TABLE, check=False)
    return re.sub(r"packets \d+ bytes \d+", "", listed)


def _refused(stage: Stage, forger: Forger) -> _Tried:
    """Have others try to change a table that belongs to the agent, and flush all that there is."""
    whole, before = _rules(stage), forger.arrived()
    changed = []
    for breakage in _BREAKAGES:
        try:
            stage.node.run("nft", "-f", "-", stdin=breakage)
            changed.append(breakage)
        except CommandError:
            changed += [breakage] if _rules(stage) != whole else []
        time.sleep(0.5)
    note = f"{len(_BREAKAGES)} writes of others refused"
    return _Tried(forger.arrived() - before, tuple(f"not refused: {breakage}" for breakage in changed), note)


def _flushed(stage: Stage, forger: Forger, probe: Probe, length: Length) -> _Tried:
    """Flush all rules of nftables: those of iptables are put back (6.1), and the table stays."""
    whole, before = _rules(stage), forger.arrived()
    probe.allow(length.within(_MENDED))
    stage.node.run("nft", "flush", "ruleset")
    stays = _rules(stage) == whole
    time.sleep(_MENDED)
    broken = () if stays else ("a flush of all rules has changed the table",)
    return _Tried(forger.arrived() - before, broken, "all rules flushed")


def _put_back(stage: Stage, forger: Forger, probe: Probe, length: Length) -> _Tried:
    """Have others change a table that belongs to nobody; the agent puts it back in time."""
    whole = _rules(stage)
    took, arrived = 0.0, 0
    for breakage in _BREAKAGES:
        probe.allow(length.within(_MENDED))
        began = time.monotonic()
        stage.node.run("nft", "-f", "-", stdin=breakage)
        wait_until(lambda: _rules(stage) == whole, 60)
        took = max(took, time.monotonic() - began)
        stage.lab.settle()
        before = forger.arrived()
        time.sleep(0.5)
        arrived += forger.arrived() - before
    broken = (f"the table was put back after {took:.1f} s",) if took > length.within(_MENDED) else ()
    return _Tried(arrived, broken, f"{len(_BREAKAGES)} times put back in {took:.1f} s at most")


def forged(layout: Layout, length: Length, *, older: bool = False) -> Outcome:
    """Forge while agents are killed and started, pods come and go, and others write in the table.

    ``older``: the agent is as on an older kernel, and puts the table back.
    """
    module = ("tests.chaos.older",) if older else ("agent",)
    random = Random(layout.value)
    kills = 8 if length is Length.LONG and not older else 1
    with Stage(layout) as stage:
        client, store, job = (stage.pods[name] for name in ("client", "store", "job"))
        with Forger(client, store, job) as open_still:
            wait_until(lambda: open_still.arrived() > 0, 20)
        stage.start(_GUARD, module=module)
        wait_until(_guards_all(stage), 60)
        with Probe(stage.lanes) as probe, Forger(client, store, job) as forger:
            for _ in range(kills):
                extra = stage.lab.pod(stage.node, "extra")
                stage.say("extra", [pod_manifest(extra)])
                time.sleep(random.uniform(0, 2))
                stage.stop(signal.SIGKILL)
                stage.unsay("extra")
                stage.lab.remove(extra)
                stage.start(_GUARD, ready=False, module=module)
                time.sleep(random.uniform(0, 3))
            stage.agent.wait_ready()
            wait_until(_guards_all(stage), 60)
            wrong = forger.arrived()
            if held(stage.node) and not older:
                tried = [_refused(stage, forger), _flushed(stage, forger, probe, length)]
            else:
                tried = [_put_back(stage, forger, probe, length)]
            sent = forger.sent
    wrong += sum(one.arrived for one in tried)
    broken = (
        *([f"{wrong} forged frames arrived"] if wrong else ()),
        *(line for one in tried for line in one.broken),
    )
    done = ", ".join((f"{kills} agents killed", *(one.note for one in tried)))
    note = f"{sent} forged frames, {done}"
    found = Outcome.of(probe.report, note=note, broken=broken)
    return replace(found, flows=found.flows + sent, wrong=found.wrong + wrong)


SCENARIOS = (
    *(
        Scenario(
            promise="10.1",
            also=("10.3", "10.4"),
            name=f"forged without a pause, {layout.value}",
            run=functools.partial(forged, layout),
            seconds=60,
        )
        for layout in Layout
    ),
    *(
        Scenario(
            promise="10.4",
            also=("10.1", "10.3"),
            name=f"the frames' table put back as on an older kernel, {layout.value}",
            run=functools.partial(forged, layout, older=True),
            seconds=30,
        )
        for layout in Layout
    ),
)
