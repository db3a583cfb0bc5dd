"""What is done to a node while its lock is held: enforce until a signal, or remove everything of ours."""

from __future__ import annotations

import signal
from pathlib import Path

from agent import __version__, log
from agent.daemon import Agent, chosen_families
from agent.dataplane.backend import Backend
from agent.dataplane.host import check_host
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.leftovers import held_families, remove, remove_sets
from agent.dataplane.iptables.options import Options
from agent.dataplane.lock import LockedError, lock_node
from agent.dataplane.mode import MODES, UndecidedError, decide_mode
from agent.kube.model import Family
from agent.settings import AllowedPackets, DeniedPackets, Settings
from agent.sources.source import Source
from agent.status.server import StatusServer

_log = log.get(__name__)

STOPPED, CANNOT_GO_ON = 0, 1


def options_of(settings: Settings) -> Options:
    """Return what the settings say of the rules."""
    return Options(
        mark_egress=settings.mark_egress,
        mark_ingress=settings.mark_ingress,
        accept=settings.allowed_packets is AllowedPackets.ACCEPT,
        reject=settings.denied_packets is DeniedPackets.REJECT,
    )


def run(settings: Settings) -> int:
    """Enforce until a signal; return the exit code."""
    try:
        with lock_node():
            return _run_locked(settings)
    except LockedError as error:
        _log.error("the node cannot be locked", detail=str(error))
    except UndecidedError as error:
        _log.error("which iptables this node uses cannot be told", detail=str(error))
    return CANNOT_GO_ON


def _run_locked(settings: Settings) -> int:
    choice = decide_mode(settings.iptables_mode.value)
    host = check_host(settings.fix_host, choice.mode)
    held = held_families(choice.mode)
    families = chosen_families(settings.families, host, held)
    _log.info(
        "starting",
        version=__version__,
        node=settings.node_name,
        iptables_mode=choice.mode,
        iptables_mode_reason=choice.reason,
        families=[int(f) for f in families],
    )
    if not families:
        _log.error("no address family to enforce", wanted=settings.families.value)
        return CANNOT_GO_ON

    def make_backend(families: tuple[Family, ...]) -> Backend:
        return IptablesBackend(choice.mode, families, options_of(settings))

    try:
        agent = Agent(settings, choice, host, _source(settings), make_backend, held)
    except OSError as error:
        _log.error(
            "the kernel cannot be programmed",
            error=str(error),
            remedy="run as root, with CAP_NET_ADMIN, in the node's network namespace",
        )
        return CANNOT_GO_ON
    server = StatusServer(settings.health_address, settings.health_port, agent.health, agent.status)
    # Whichever thread the signal comes to, the loop wakes up and runs its handler.
    signal.set_wakeup_fd(agent.inbox.wakes, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, agent.inbox.stop)
    server.start()
    try:
        agent.run()
    finally:
        server.stop()
    _log.info("stopped", detail="what is in the kernel stays there")
    return STOPPED


def _source(settings: Settings) -> Source:
    if settings.manifests is not None:
        from agent.sources.manifests import ManifestSource

        return ManifestSource(Path(settings.manifests), settings.state_dir)
    from agent.sources.apiserver import ApiSource

    return ApiSource(settings.kubeconfig or None, settings.context or None, nodes=settings.allow_nodes)


def cleanup() -> int:
    """Remove everything of ours from this node's kernel; return the exit code."""
    try:
        with lock_node():
            faults = []
            for mode in MODES:
                faults += remove(mode, (Family.V4, Family.V6))
            if not faults:
                faults += remove_sets()
    except LockedError as error:
        # An agent that runs here would put everything back.
        _log.error("the node cannot be locked", detail=str(error))
        return CANNOT_GO_ON
    for fault in faults:
        _log.error("not removed", what=fault.what, remedy=fault.remedy)
    if not faults:
        _log.info("removed", detail="nothing of the agent's is left in the kernel")
    return CANNOT_GO_ON if faults else STOPPED
