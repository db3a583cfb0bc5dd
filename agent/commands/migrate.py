"""Taking a node over from kube-router's firewall, with no moment in which a packet that is denied passes.

It must have been stopped; what it left still judges packets, and accepts what it allows. So this agent's
rules go in and are put in front; what they allow returns, and is judged by what is left. Only when they are
whole is that removed. Whatever ends this in between leaves one of the two in force at least, and it can be
done again.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any, NamedTuple

from agent import log
from agent.dataplane.kube_router import STOP, running_fault
from agent.fault import Fault
from agent.host.check import check_host
from agent.kernel.ipset_errors import SetError
from agent.kernel.node_lock import LockedError, lock_node
from agent.observe.health import State, readyz
from agent.runtime import lives, start
from agent.runtime.backends import TableError, UndecidedError, takeover
from agent.runtime.loop import Agent
from agent.runtime.node_name import REMEDY, no_pod_names
from agent.settings import Settings
from agent.words import count

_log = log.get(__name__)

_LOOK_SECONDS = 0.1
_AGAIN = "correct that, and run it again; until then kube-router's rules stay in force"


class Takeover(NamedTuple):
    """What was found, what of it is left (None: not known), and what stood or stands in the way."""

    found: takeover.Remains | None
    left: takeover.Remains | None
    faults: tuple[Fault, ...] = ()


def migrate(settings: Settings, timeout: float, *, dry_run: bool = False) -> Takeover:
    """Take this node over, where ``timeout`` seconds are enough for this agent's rules to be whole.

    A dry run only looks. What goes wrong is in the outcome.
    """
    found: takeover.Remains | None = None
    try:
        found = takeover.look()
        if not found.any():
            if not dry_run:
                _log.info("nothing of kube-router's firewall is here")
            return Takeover(found, found)
        with lock_node():
            running = running_fault()
            if running is not None or dry_run:
                return Takeover(found, found, () if running is None else (running,))
            _log.info("kube-router's firewall found", **_about(found))
            outcome = _take_over(settings, found, timeout)
            if not outcome.faults:
                _log.info("kube-router's firewall removed", detail="this agent's rules are in force")
            return outcome
    except LockedError as error:
        fault = Fault(str(error), "two must not work on one node: run this before the agent, not beside it")
    except UndecidedError as error:
        fault = Fault(f"which iptables this node uses cannot be told: {error}", _AGAIN)
    except start.StartError as error:
        fault = Fault(str(error), error.remedy)
    except (TableError, SetError) as error:
        fault = Fault(str(error), error.remedy or _AGAIN)
    return Takeover(found, found if dry_run else None, (fault,))


def _take_over(settings: Settings, found: takeover.Remains, timeout: float) -> Takeover:
    agent = start.make_agent(settings, beside_kube_router=True)
    fault = (
        _family_missed(agent, settings, found)
        or _run_until_ready(agent, timeout)
        or _not_whole(agent, settings, found)
    )
    if fault is not None:
        return Takeover(found, found, (fault,))
    _log.info("this agent's rules are complete, and in front")
    now = takeover.look()
    new = now.written_since(found)
    fault = (
        takeover.passed_by(agent.mode, agent.families)
        if new is None
        else Fault(f"kube-router's firewall still writes: {new} is new", STOP)
    )
    if fault is not None:
        return Takeover(found, now, (fault,))
    faults = takeover.remove(now)
    return Takeover(found, takeover.look(), tuple(faults))


def _run_until_ready(agent: Agent, timeout: float) -> Fault | None:
    """Run the agent until it is ready; return why it is not when the time is over or a signal came."""
    ready, ended = threading.Event(), threading.Event()
    end = time.monotonic() + timeout

    def watch() -> None:
        while time.monotonic() < end and not ended.wait(_LOOK_SECONDS):
            if readyz(agent.health()).ok:
                ready.set()
                break
        agent.inbox.stop()

    watcher = threading.Thread(target=watch, name="ready", daemon=True)
    lives.stop_on_signals(agent)
    watcher.start()
    try:
        agent.run()
    finally:
        ended.set()
        watcher.join()
    if ready.is_set():
        return None
    failed = [check for check in readyz(agent.health()).checks if check.state is State.FAILED]
    # Those of the agent's threads have ended with it.
    why = "; ".join(f"{c.name}: {c.detail}" for c in failed if not c.name.startswith("thread/"))
    late = f"within {timeout:g} s" if time.monotonic() >= end else "before a signal stopped it"
    return Fault(f"this agent did not become ready {late}: {why or 'nothing more is known'}", _AGAIN)


def _not_whole(agent: Agent, settings: Settings, found: takeover.Remains) -> Fault | None:
    """Return the fault where what is left must stay though this agent was ready: it would be missed."""
    for fault in agent.health().faults:
        if fault.blocking:
            return fault
    if found.judges_pods() and not agent.node_is_named():
        return Fault(f"kube-router's firewall had pods here, and {no_pod_names(settings.node_name)}", REMEDY)
    return None


def _family_missed(agent: Agent, settings: Settings, found: takeover.Remains) -> Fault | None:
    """Return the fault where a family would be enforced by nobody, which the host has."""
    missed = found.families() - set(agent.families)
    for family in sorted(missed & check_host(fix=False).families):
        return Fault(
            f"kube-router's firewall enforces IPv{int(family)} here, and this agent does not",
            f"have it do so: --families; it is {settings.families.value}",
        )
    return None


def _about(remains: takeover.Remains) -> dict[str, Any]:
    """Return what there is, for logs and JSON."""
    return {
        "chains": [
            {"mode": c.mode, "family": int(c.family), "chains": len(c.chains), "hooked_in": list(c.hooked)}
            for c in remains.chains
        ],
        "sets": len(remains.sets),
        "nft_tables": [int(family) for family in remains.nft_tables],
    }


def exit_code(outcome: Takeover) -> int:
    """Return 0 when nothing stood in the way, else 1."""
    return start.CANNOT_GO_ON if outcome.faults else start.STOPPED


def as_json(outcome: Takeover) -> str:
    """Return the outcome for scripts: what was found, what is left, and the faults."""
    faults = [{"what": fault.what, "remedy": fault.remedy} for fault in outcome.faults]
    found, left = (None if r is None else _about(r) for r in (outcome.found, outcome.left))
    return json.dumps({"found": found, "left": left, "faults": faults}, indent=2) + "\n"


def text(outcome: Takeover) -> str:
    """Return for people what a dry run found, and what is in the way."""
    found = outcome.found
    lines = []
    if found is not None and not found.any():
        lines.append("Nothing of kube-router's firewall is here.")
    elif found is not None:
        lines.append("kube-router's firewall has left:")
        lines += [
            f"  IPv{int(c.family)}, iptables mode {c.mode}: {count(len(c.chains), 'chain')}, reached from "
            f"{', '.join(c.hooked) or 'nowhere'}"
            for c in found.chains
        ]
        lines += [f"  IPv{int(family)}: a table of its own in nftables" for family in found.nft_tables]
        lines += [f"  {count(len(found.sets), 'set')}"] if found.sets else []
    lines += [f"In the way: {fault.what} ({fault.remedy})" for fault in outcome.faults]
    if found is not None and found.any() and not outcome.faults:
        lines.append(
            "Without --dry-run, this agent's rules are written in front of these. When they are complete, "
            "these are removed."
        )
    return "\n".join(lines) + "\n"
