"""What a running agent answers questions with: its engine, its kernel, the API server, what it has told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent import __version__
from agent.clock import SYSTEM
from agent.dataplane.trace import Tracer
from agent.kernel import conntrack
from agent.kernel.conntrack import ConntrackError
from agent.kube.model import Key
from agent.net import address_text
from agent.observe.explain.ends import Inventory
from agent.observe.explain.live import Connection, Explainer
from agent.observe.flows.between import denied, denied_between
from agent.observe.flows.flow import as_text
from agent.observe.health import Health
from agent.observe.hits import Hits
from agent.observe.page.sources import Sources
from agent.runtime import backends
from agent.runtime.loop import Agent
from agent.settings import Settings
from agent.sources.services import FoundService

if TYPE_CHECKING:
    from agent.sources.apiserver.services import Services

Named = Callable[[Key], FoundService | None]
At = Callable[[bytes], FoundService | None]


def make_explainer(settings: Settings, agent: Agent) -> Explainer:
    """Return what answers questions beside the loop. Nothing is read or connected before the first."""
    views = agent.views
    engine = views.engine

    def tracer() -> Tracer:
        return backends.tracer(views.choice)

    def has(end: Key | bytes) -> bool:
        return bool(agent.extract([end]).pods) if isinstance(end, bytes) else engine.is_known(end)

    return Explainer(
        node=settings.node_name,
        extract=agent.extract,
        pods=engine.all_pods,
        invalid=engine.invalid,
        begun=lambda: views.calls.phase.begun,
        tracer=tracer,
        connections=functools.partial(connections, agent.cutting.is_cut),
        services=Inventory(
            has,
            engine.all_pods,
            *(_services(settings) if settings.manifests is None else ()),
        ),
        clock=SYSTEM,
        hits=Hits(),
        denied=lambda questions: tuple(map(as_text, denied_between(agent.flows, questions))),
        behind=lambda: behind(agent.health()),
        closed=views.new_pods.is_closed,
    )


def behind(health: Health) -> str:
    """Say since when changes may be missing, where a source has lost the API server; else nothing."""
    lost = [one.last_contact for one in health.caches.values() if one.synced and not one.current]
    if not lost:
        return ""
    return (
        f"no contact with the API server for {max(0.0, health.now - min(lost)):.0f} s: "
        "changes made since are not known here (netpol-agent status says why)"
    )


def page_sources(settings: Settings, agent: Agent, explainer: Explainer) -> Sources:
    """Return what the page is made of."""
    engine = agent.views.engine
    return Sources(
        node=settings.node_name,
        version=__version__,
        health=agent.health,
        status=agent.status,
        pods=engine.local_pods,
        policy=engine.staging.written,
        history=agent.history.rows,
        denied=functools.partial(denied, agent.flows),
        tracer=explainer.tracer,
        hits=explainer.hits,
        explainer=explainer,
        clock=SYSTEM,
    )


def _services(settings: Settings) -> tuple[Named, At]:
    """Return what finds Services by name and by address: they connect when first asked."""

    @functools.cache
    def services() -> Services:
        # What reads kubeconfigs is loaded by nothing else where an agent reads manifests.
        from agent.sources.apiserver.connect import Connection as ApiConnection
        from agent.sources.apiserver.services import Services

        # A connection of its own: the sources' are held by their watches.
        return Services(ApiConnection(settings.kubeconfig or None, settings.context or None))

    return lambda key: services().named(key), lambda address: services().at(address)


def connections(
    is_cut: Callable[[int], bool], source: bytes, destination: bytes, protocol: int, port: int
) -> Sequence[Connection]:
    """Return the connections that the kernel tracks between two ends. Raises OSError.

    ``is_cut``: whether one was ended, by its mark.
    """
    try:
        found = conntrack.between(source, destination, protocol, port)
    except ConntrackError as error:
        raise OSError(f"{error.what}; {error.remedy}") from None
    return [Connection(_text(one, destination), one.replied, is_cut(one.mark)) for one in found]


def _text(one: conntrack.Tracked, destination: bytes) -> str:
    opened = one.opened
    text = f"from {address_text(opened.source)} port {opened.source_port}"
    if opened.destination != destination:
        text += f" through {address_text(opened.destination)} port {opened.port}"
    return text
