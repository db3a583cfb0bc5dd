"""``/explain``: the answer of a running agent, as JSON."""

from __future__ import annotations

import msgspec

from agent.observe.explain.live import Asked, Explainer
from agent.observe.routes import JSON, TEXT, Request, Response
from agent.spec.question import QuestionError

USAGE = "ask as /explain?from=NAMESPACE/POD&to=NAMESPACE/POD&port=PORT[/PROTO]\n"


def explain(explainer: Explainer, request: Request) -> Response:
    """Answer a question. A verdict is 200, whatever it is."""
    asked = asked_by(request)
    if not all(asked):
        return Response(400, TEXT, USAGE.encode())
    try:
        found = explainer.answer(asked)
    except QuestionError as error:
        return Response(400, TEXT, f"{error}\n".encode(errors="replace"))
    except TimeoutError as error:
        return Response(503, TEXT, f"the agent is busy: {error}; ask again\n".encode())
    return Response(200, JSON, msgspec.json.encode(found) + b"\n")


def asked_by(request: Request) -> Asked:
    """Return the question that a query holds; parts that are not given are empty."""
    return Asked(request.one("from").strip(), request.one("to").strip(), request.one("port").strip())
