"""The routes by which a running agent is asked: connections, its settings, what its kernel should hold."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from agent.kube.model import Key
from agent.observe.page.site import page_routes
from agent.observe.proof import ANSWER_SECONDS
from agent.observe.routes import JSON, TEXT, Request, Response, Route, Routes
from agent.policy.budget.limits import NamespaceBudget, PolicyBudget
from agent.policy.lower.lowered import LoweredProgram
from agent.runtime import backends
from agent.runtime.loop import Agent
from agent.runtime.prover import UnprovedError
from agent.runtime.proving import Proving
from agent.setting_values import Endpoint
from agent.settings import Settings

if TYPE_CHECKING:
    from agent.observe.explain.live import Explainer
    from agent.observe.page.sources import Sources
    from agent.observe.replay.here import Witness


def asked_routes(settings: Settings, agent: Agent, routes: Callable[[], Routes]) -> dict[str, Route]:
    """Return the routes by which people ask, each with its path. ``routes``: all that there are.

    What answers is loaded with the first question: it takes memory on every node, and most are never asked.
    """

    @functools.cache
    def explainer() -> Explainer:
        from agent.runtime.explaining import make_explainer

        return make_explainer(settings, agent)

    def explain(request: Request) -> Response:
        from agent.observe.explain import route

        return route.explain(explainer(), request)

    @functools.cache
    def witness() -> Witness:
        from agent.runtime.witness import make_witness

        return make_witness(settings, agent)

    def seen(request: Request) -> Response:
        from agent.observe.replay import here

        return here.answer(witness(), request)

    def sources() -> Sources:
        from agent.runtime.explaining import page_sources

        return page_sources(settings, agent, explainer())

    told = "whether a connection is allowed, and why: ?from=…&to=…&port=… (JSON)"
    return {
        "/explain": Route(explain, told, large=True),
        "/seen": Route(seen, "the connections of this node's pods, and what decides them (JSON)", large=True),
        "/settings": settings_route(settings),
        "/rendered": rendered_route(settings, agent),
        **page_routes(sources, routes),
    }


def verify_route(proving: Proving) -> Route:
    """Return the route that has the kernel proved at once."""

    def answer(request: Request) -> Response:
        pod = request.one("pod")
        try:
            if pod:
                Key.of(pod)
            found = proving.verify(pod)
        except ValueError as error:
            return Response(400, TEXT, f"{error}\n".encode(errors="replace"))
        except (UnprovedError, TimeoutError, OSError) as error:
            return Response(503, TEXT, f"{error}\n".encode(errors="replace"))
        return Response(200, JSON, msgspec.json.encode(found) + b"\n")

    told = "whether the kernel does what the policies say, for every packet: ?pod=NS/NAME (JSON)"
    return Route(answer, told, large=True, patience=ANSWER_SECONDS)


def settings_route(settings: Settings) -> Route:
    """Return the route of the settings, as they were read. None of them is a secret: files are named only."""
    read = {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    body = json.dumps(read, indent=2, default=str).encode() + b"\n"
    return Route(lambda _: Response(200, JSON, body), "the settings it runs with (JSON)")


def _plain(value: object) -> object:
    """Return a setting as JSON has it, with the names of its parts; networks and names in their order."""
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, PolicyBudget | NamespaceBudget):
        return value._asdict()
    return str(value) if isinstance(value, Endpoint) else value


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
