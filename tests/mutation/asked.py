"""Breakages of what a running agent answers, and of what it shows."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

ASKED = (
    Mutation(
        "a rule whose set lacks the packet taken for one that allows it",
        "agent.dataplane.iptables.trace:_Walk._holds",
        "self._is(condition) is condition.wanted",
        "True",
        (Selection.TRACE,),
    ),
    Mutation(
        "a rule that is not understood passed over",
        "agent.dataplane.iptables.trace:_Walk._through",
        "self._unsure = True",
        "pass",
        (Selection.TRACE,),
    ),
    Mutation(
        "an endpoint that is not ready asked about",
        "agent.observe.explain.ends:_behind",
        "[backend for backend in service.backends if backend.ready]",
        "list(service.backends)",
        (Selection.ENDS,),
    ),
    Mutation(
        "the port of a Service taken for that of its pods",
        "agent.observe.explain.ends:_behind",
        "Service(asked.protocol, number)",
        "asked",
        (Selection.ENDS,),
    ),
    Mutation(
        "a page for who takes no HTML",
        "agent.observe.page.accept:wants_html",
        'more.strip() not in ("q=0", "q=0.0")',
        "True",
        (Selection.PAGE,),
    ),
)
