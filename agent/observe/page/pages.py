"""Each page: what it is asked for, and what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from agent.history.change import Row
from agent.history.query import PARTS, Query, key_of
from agent.history.query import parse as parse_query
from agent.history.store import StoreError
from agent.kube.model import Key
from agent.net import address_text
from agent.observe import health
from agent.observe.explain.live import Asked
from agent.observe.explain.route import asked_by
from agent.observe.explain.text import connection_line, headline
from agent.observe.flows.flow import Flow
from agent.observe.page.grid import grid_of
from agent.observe.page.halves import Half, halves_of
from agent.observe.page.render import page
from agent.observe.page.sources import Sources
from agent.observe.routes import Request, Response
from agent.observe.snapshot import AuditedStatus
from agent.spec.hints import without_dns
from agent.spec.question import QuestionError

A_PAGE = 50
"""Rows of a long table that are shown at once."""
_FEW = 8
_MANY = 200


class Part(NamedTuple):
    """Rows of a long table: those of one page, and where the others are."""

    rows: Sequence[Any]
    total: int
    number: int
    pages: int
    sought: str


def part_of(rows: Sequence[Any], names: Sequence[str], request: Request) -> Part:
    """Return the rows whose names hold what is sought: those of the page that is asked for."""
    sought = request.one("q").strip()
    found = [row for row, name in zip(rows, names, strict=True) if sought.lower() in name.lower()]
    pages = max(1, -(-len(found) // A_PAGE))
    asked = request.one("page", "1")
    number = min(max(1, int(asked[:6]) if asked.isascii() and asked.isdigit() else 1), pages)
    return Part(found[(number - 1) * A_PAGE : number * A_PAGE], len(found), number, pages, sought)


def overview(sources: Sources, request: Request) -> Response:
    """Show the node at a glance."""
    del request
    status = sources.status()
    return _page(
        sources,
        "overview.html",
        "/",
        status=status,
        policies=len({one.policy for one in status.policies}),
        rules=sum(one.rules_v4 + one.rules_v6 for one in status.policies),
        members=sum(one.size for one in status.sets),
        rows=_rows(sources, Query(limit=_FEW)),
        denied=_denied(sources, _FEW),
    )


class PodRow(NamedTuple):
    """A pod of this node: its addresses, whether each direction is isolated, and by which policies."""

    key: Key
    texts: tuple[str, ...]
    ingress_isolated: bool
    ingress: Sequence[Key]
    egress_isolated: bool
    egress: Sequence[Key]
    audited: Sequence[AuditedStatus] = ()
    workload: str = ""


def _pod_rows(sources: Sources) -> list[PodRow]:
    status = sources.status()
    isolated = {one.pod: one for one in status.pods}
    audited: dict[str, list[AuditedStatus]] = {}
    for one in status.audited:
        audited.setdefault(one.pod, []).append(one)
    rows = []
    for pod in sources.pods():
        known = isolated.get(str(pod.key))
        rows.append(
            PodRow(
                pod.key,
                tuple(map(address_text, pod.addresses)),
                known is not None and known.ingress is not None,
                pod.ingress,
                known is not None and known.egress is not None,
                pod.egress,
                audited.get(str(pod.key), ()),
                pod.workload,
            )
        )
    return rows


def pods(sources: Sources, request: Request) -> Response:
    """Show this node's pods."""
    found = _pod_rows(sources)
    shown = part_of(found, [str(pod.key) for pod in found], request)
    return _page(sources, "pods.html", "/pods", part=shown)


def pod(sources: Sources, request: Request) -> Response:
    """Show one pod of this node."""
    name = request.one("name")
    key, trouble = _asked(request, "name")
    found = next((one for one in _pod_rows(sources) if one.key == key), None)
    isolating = [sources.policy(name) for name in found.egress] if found and found.egress_isolated else []
    known = [one for one in isolating if one is not None]
    return _page(
        sources,
        "pod.html",
        "/pods",
        code=200 if found else 400 if trouble else 404,
        name=name,
        pod=found,
        notes=list(without_dns(known, found.key)) if found and known and len(known) == len(isolating) else (),
        wrong=trouble,
        rows=_rows(sources, Query(pod=key, limit=_FEW)) if key else (),
        denied=_denied(sources, _FEW, pod=name),
        cut=cuts.of_pod(name) if (cuts := sources.status().cuts) else (),
        cut_by_others=cuts.of_peer(name) if cuts else (),
    )


def policies(sources: Sources, request: Request) -> Response:
    """Show the policies in force here."""
    status = sources.status()
    found: dict[str, dict[str, Any]] = {}
    for one in status.policies:
        found.setdefault(one.policy, {})[one.direction] = one
    over = {one.policy: one.why for one in status.over_budget}
    modes = {one.policy: one.mode for one in status.staged}
    names = sorted({*found, *over, *modes})
    rows = [(name, found.get(name, {}), over.get(name, ""), modes.get(name, "")) for name in names]
    return _page(sources, "policies.html", "/policies", part=part_of(rows, names, request))


def policy(sources: Sources, request: Request) -> Response:
    """Show one policy, each of its rules in order, with what it has counted."""
    name = request.one("name")
    key, wrong = _asked(request, "name")
    found = sources.policy(key) if key else None
    halves: list[Half] = []
    trouble = ""
    if found is not None and key is not None:
        try:
            halves = halves_of(sources, key, found)
        except OSError as error:
            trouble = f"the kernel cannot be read: {error}"
    status = sources.status()
    over = next((one.why for one in status.over_budget if one.policy == name), "")
    return _page(
        sources,
        "policy.html",
        "/policies",
        code=200 if found else 400 if wrong else 404,
        name=name,
        policy=found,
        wrong=wrong,
        selects=str(found.pod_selector) if found else "",
        halves=halves,
        trouble=trouble,
        over=over,
        mode=next((one.mode for one in status.staged if one.policy == name), ""),
        audited=sorted({one.pod for one in status.audited if name in one.policies}),
        pods=[one for one in status.pods if name in (*(one.ingress or ()), *(one.egress or ()))],
        rows=_rows(sources, Query(policy=key, limit=_FEW)) if key else (),
        denied=_denied(sources, _FEW, policy=name),
        now=sources.clock.time(),
    )


def denied(sources: Sources, request: Request) -> Response:
    """Show denied connections, as they come."""
    name, by = request.one("pod"), request.one("policy")
    wrong = [text for part in ("pod", "policy") if request.one(part) and (text := _asked(request, part)[1])]
    found = () if wrong else _denied(sources, _MANY, pod=name, policy=by)
    return _page(
        sources,
        "denied.html",
        "/denied",
        code=400 if wrong else 200,
        denied=found,
        pod=name,
        policy=by,
        wrong="; ".join(wrong),
    )


def changes(sources: Sources, request: Request) -> Response:
    """Show the history."""
    asked = {part: request.one(part) for part in PARTS if request.one(part)}
    rows: Sequence[Row] | None = ()
    trouble = ""
    try:
        rows = _rows(sources, parse_query({"limit": str(A_PAGE), **asked}, sources.clock.time()))
    except ValueError as error:
        trouble = str(error)
    shown = {part: asked.get(part, "") for part in PARTS}
    return _page(
        sources,
        "changes.html",
        "/changes",
        code=400 if trouble else 200,
        rows=rows,
        asked=shown,
        trouble=trouble,
    )


def ask(sources: Sources, request: Request) -> Response:
    """Explain a connection, by a form whose address holds the question."""
    asked = asked_by(request)
    answer, trouble = None, ""
    if all(asked):
        try:
            answer = sources.explainer.answer(asked)
        except QuestionError as error:
            trouble = str(error)
    elif any(asked):
        trouble = "Give all three: from, to and port."
    connections = [
        connection_line(family, one)
        for pair in (answer.answers if answer else ())
        for family in pair.families
        for one in family.connections
    ]
    return _page(
        sources,
        "ask.html",
        "/ask",
        code=400 if trouble else 200,
        asked=asked,
        answer=answer,
        trouble=trouble,
        headline=headline,
        connections=connections,
    )


def grid(sources: Sources, request: Request) -> Response:
    """Show who reaches whom on a port, among chosen pods."""
    chosen = [word for text in request.query.get("pod", ()) for word in re.split(r"[\s,]+", text) if word]
    port = request.one("port").strip()
    made, trouble = None, ""
    if chosen and port:
        try:
            made = grid_of(sources.explainer, chosen, port)
        except QuestionError as error:
            trouble = str(error)
    return _page(
        sources,
        "grid.html",
        "/grid",
        code=400 if trouble else 200,
        grid=made,
        chosen=chosen,
        port=port,
        trouble=trouble,
        known=[str(one.key) for one in sources.pods()][:_MANY],
    )


def checks(sources: Sources, request: Request) -> Response:
    """Show health, with remedies."""
    del request
    found = sources.health()
    return _page(
        sources,
        "health.html",
        "/health",
        answers=(health.readyz(found), health.healthz(found)),
        faults=found.faults,
    )


def _asked(request: Request, part: str) -> tuple[Key | None, str]:
    """Return the object that a part of the question names, and what is wrong with how it is written."""
    try:
        return key_of(part, request.one(part).strip()), ""
    except ValueError as error:
        return None, str(error)


def question_url(asked: Asked) -> str:
    """Return where a question is answered."""
    from urllib.parse import urlencode

    return "/ask?" + urlencode({"from": asked.source, "to": asked.destination, "port": asked.port})


def _rows(sources: Sources, query: Query) -> Sequence[Row] | None:
    """Return rows of the history; None where none is kept, or it cannot be read."""
    try:
        return sources.history(query)
    except StoreError:
        return None


def _denied(sources: Sources, most: int, *, pod: str = "", policy: str = "") -> Sequence[dict[str, Any]]:
    """Return the last denied connections that were logged, the newest first."""
    return list(_flow_rows(sources.denied(most, pod, policy)))


def _flow_rows(flows: Sequence[Flow]) -> Iterator[dict[str, Any]]:
    for flow in flows:
        asked = None
        if flow.destination.port is not None and flow.protocol in ("TCP", "UDP", "SCTP"):
            asked = question_url(
                Asked(
                    flow.source.pod or flow.source.address,
                    flow.destination.pod or flow.destination.address,
                    f"{flow.destination.port}/{flow.protocol.lower()}",
                )
            )
        yield {"flow": flow, "ask": asked}


def _page(sources: Sources, template: str, here: str, *, code: int = 200, **context: Any) -> Response:
    ready = health.readyz(sources.health())
    return page(
        template,
        code,
        node=sources.node,
        version=sources.version,
        ready=ready.ok,
        warned=any(check.state is health.State.WARNING for check in ready.checks),
        here=here,
        **context,
    )
