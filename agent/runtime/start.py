"""What is done to a node while its lock is held: enforce until a signal, or remove everything of ours."""

from __future__ import annotations

import functools
import socket
import time
from pathlib import Path

from agent import __version__, log
from agent.clock import SYSTEM
from agent.dataplane.backend import Backend
from agent.fault import Fault
from agent.host.check import check_host
from agent.kernel.node_lock import LOCK, LockedError, lock_node
from agent.net import Family
from agent.observe.connections import raise_limit
from agent.observe.flows.routes import flow_routes
from agent.observe.history.route import history_route
from agent.observe.server import StatusServer
from agent.observe.status.policy import rules_route
from agent.runtime import backends, heap, lives
from agent.runtime.backends import UndecidedError
from agent.runtime.host_check import chosen_families
from agent.runtime.lives import lead
from agent.runtime.loop import Agent
from agent.runtime.policy_look import make_look
from agent.runtime.routes import asked_routes, verify_route
from agent.runtime.scrape import PATH, metrics_route, metrics_server
from agent.runtime.threads import take_short_turns
from agent.settings import Settings
from agent.sources.cni.asking import Ask
from agent.sources.cni.source import CniSource
from agent.sources.source import Source

_log = log.get(__name__)

STOPPED, CANNOT_GO_ON = 0, 1


class StartError(Exception):
    """The agent cannot start on this node; ``remedy`` says what a person can do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def run(settings: Settings) -> int:
    """Enforce until a signal; return the exit code."""
    heap.keep_little()
    raise_limit()
    try:
        with lock_node():
            lead(functools.partial(_run_locked, settings), SYSTEM)
            _log.info("stopped", detail="what is in the kernel stays there")
            return STOPPED
    except LockedError as error:
        _log.error("the node cannot be locked", detail=str(error))
    except UndecidedError as error:
        _log.error("which iptables this node uses cannot be told", detail=str(error))
    except StartError as error:
        _log.error("the agent cannot start", detail=str(error), remedy=error.remedy)
    return CANNOT_GO_ON


def _run_locked(settings: Settings) -> None:
    """Make an agent and run it, served, until a signal. Raises MemoryError where it cannot go on."""
    take_short_turns()
    agent = make_agent(settings)
    names = (settings.node_name, socket.gethostname())
    route = metrics_route(agent.figures)
    scraped = metrics_server(settings, route, names)
    more = {
        PATH: route,
        "/history": history_route(settings.node_name, agent.history.rows, time.time),
        "/rules": rules_route(make_look(agent)),
        **asked_routes(settings, agent, lambda: server.routes),
        "/verify": verify_route(agent.proving),
        **flow_routes(agent.flows),
    }
    server = StatusServer(
        settings.health_address, settings.health_port, agent.health, agent.status, names, more
    )
    lives.stop_on_signals(agent)
    servers = [server] if scraped is None else [server, scraped]
    try:
        for each in servers:
            each.start()
        lives.run(agent)
    finally:
        for each in servers:
            each.stop()


def make_agent(settings: Settings, *, beside_kube_router: bool = False) -> Agent:
    """Make the agent of this node, which must be locked. Raises StartError and UndecidedError.

    ``beside_kube_router``: write though what kube-router's firewall left is there.
    """
    choice = backends.choose(settings)
    host = check_host(settings.fix_host, backends.lacking(choice))
    held = backends.held_families(choice)
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
        wanted = settings.families.value
        raise StartError(
            f"no address family to enforce: --families is {wanted}, and the kernel does not have it",
            "choose another with --families",
        )

    def make_backend(families: tuple[Family, ...]) -> Backend:
        return backends.make(settings, choice, families, beside_kube_router=beside_kube_router)

    try:
        fresh = not held and backends.is_clean()
        return Agent(settings, choice, host, _source(settings, fresh=fresh), make_backend, held, fresh=fresh)
    except OSError as error:
        raise StartError(
            f"the kernel cannot be programmed: {error}",
            "run as root, with CAP_NET_ADMIN, in the node's network namespace",
        ) from error


def _source(settings: Settings, *, fresh: bool) -> Source:
    """Return where objects come from; ``fresh``: the kernel holds nothing of an earlier run."""
    inner, ask = _objects(settings, fresh=fresh)
    if not settings.cni_results and settings.nri_socket is None:
        return inner
    return CniSource(inner, settings.node_name, settings.cni_results, ask)


def _objects(settings: Settings, *, fresh: bool) -> tuple[Source, Ask | None]:
    """Return the source of all objects, and who can be asked for a single pod."""
    if settings.manifests is not None:
        from agent.sources.manifests.source import ManifestSource

        return ManifestSource(Path(settings.manifests), settings.state_dir), None
    from agent.sources.apiserver.connect import Connection
    from agent.sources.apiserver.one_pod import OnePod
    from agent.sources.apiserver.source import ApiSource

    kubeconfig, context = settings.kubeconfig or None, settings.context or None
    source = ApiSource(
        kubeconfig,
        context,
        nodes=settings.allow_nodes,
        own_node=settings.node_name if settings.closes_by_node else "",
        state=LOCK.parent,
        anything=fresh,
        first=settings.node_name if fresh else "",
        confirm_empty=settings.confirm_empty,
    )
    return source, OnePod(Connection(kubeconfig, context))


def cleanup() -> list[Fault]:
    """Remove everything of ours from this node's kernel; return what of it is left, and why."""
    try:
        with lock_node():
            return backends.remove_all()
    except LockedError as error:
        # An agent that runs here would put everything back.
        return [Fault(str(error), "delete the agent's DaemonSet or service, then run it again")]
