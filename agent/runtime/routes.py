"""The routes by which a running agent is asked: connections, its settings, what its kernel should hold."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable

from agent import __version__
from agent.clock import SYSTEM
from agent.observe.explain.live import Explainer
from agent.observe.explain.route import explain_route
from agent.observe.flows.between import denied
from agent.observe.page.site import page_routes
from agent.observe.page.sources import Sources
from agent.observe.routes import JSON, TEXT, Response, Route, Routes
from agent.policy.lower.lowered import LoweredProgram
from agent.runtime import backends
from agent.runtime.explaining import make_explainer
from agent.runtime.loop import Agent
from agent.settings import Settings


def asked_routes(settings: Settings, agent: Agent, routes: Callable[[], Routes]) -> dict[str, Route]:
    """Return the routes by which people ask, each with its path. ``routes``: all that there are."""
    explainer = make_explainer(settings, agent)
    return {
        "/explain": explain_route(explainer),
        "/settings": settings_route(settings),
        "/rendered": rendered_route(settings, agent),
        **page_routes(_sources(settings, agent, explainer), routes),
    }


def _sources(settings: Settings, agent: Agent, explainer: Explainer) -> Sources:
    engine = agent.views.engine
    return Sources(
        node=settings.node_name,
        version=__version__,
        health=agent.health,
        status=agent.status,
        pods=engine.local_pods,
        policy=engine.policy_of,
        history=agent.history.rows,
        denied=functools.partial(denied, agent.flows),
        tracer=explainer.tracer,
        hits=explainer.hits,
        explainer=explainer,
        clock=SYSTEM,
    )


def settings_route(settings: Settings) -> Route:
    """Return the route of the settings, as they were read. None of them is a secret: files are named only."""
    body = json.dumps(dataclasses.asdict(settings), indent=2, default=str).encode() + b"\n"
    return Route(lambda _: Response(200, JSON, body), "the settings it runs with (JSON)")


def rendered_route(settings: Settings, agent: Agent) -> Route:
    """Return the route of the rules and sets that the kernel should hold, as text.

    The loop only copies what it has of references and addresses; the text is made on the caller's thread.
    """

    def answer() -> Response:
        program = agent.inbox.ask(lambda: copied(agent.views.engine.lowered))
        text = backends.render(program, settings, agent.families).text
        return Response(200, TEXT, text.encode(errors="surrogateescape"))

    return Route(lambda _: answer(), "the rules and sets that the kernel should hold", large=True)


def copied(program: LoweredProgram) -> LoweredProgram:
    """Return a program that does not change with the engine's."""
    return dataclasses.replace(
        program,
        policies=dict(program.policies),
        pods=dict(program.pods),
        sets={set_id: set(members) for set_id, members in program.sets.items()},
        closed={direction: set(addresses) for direction, addresses in program.closed.items()},
    )
