"""One policy as this node has it: whom it isolates, and each rule with what the kernel has counted for it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.decoding import decode as decode_json
from agent.history.query import key_of
from agent.kube.model import Key, Rule
from agent.net import Direction
from agent.observe.routes import JSON, TEXT, Request, Response, Route


class Peers(msgspec.Struct, frozen=True):
    """A set that a rule looks into: what its members are, and how many there are now, over both families."""

    meaning: str
    members: int


class RuleView(msgspec.Struct, frozen=True):
    """One rule. ``number`` counts the policy's rules of a direction from 0.

    ``packets`` and ``bytes``: what the kernel has counted for it since the rule was written last, None where
    that cannot be read, or the rule is not in the kernel. ``peers``: the sets that it looks into. ``nobody``:
    it can match no packet now. ``last_hit``: when a look first saw the number of packets that it has now, in
    ``time.time()`` seconds; None where no look has seen it grow. ``dns``: its ports take in DNS, UDP port 53,
    and it is for egress.
    """

    direction: str
    number: int
    text: str
    peers: tuple[Peers, ...] = ()
    packets: int | None = None
    bytes: int | None = None
    nobody: bool = False
    last_hit: float | None = None
    dns: bool = False


class PolicyView(msgspec.Struct, frozen=True):
    """A policy. ``selects`` is what it selects, in words.

    ``ingress`` and ``egress``: the pods of this node that it isolates in a direction; None where it does not
    name the direction. ``mode``: ``enforce``, ``audit`` or ``disabled``; ``mode_of_namespace``: the
    annotation of its namespace says so, and none of its own. ``generation`` is ``metadata.generation``, 0
    where there is none; ``proved_since``: since when it is proved that this node enforces it as it is now, in
    ``time.time()`` seconds, None where it is not. ``problems``: why it is not enforced as it is
    written, or that its counters could not be read.
    """

    policy: str
    selects: str
    ingress: tuple[str, ...] | None
    egress: tuple[str, ...] | None
    rules: tuple[RuleView, ...]
    problems: tuple[str, ...] = ()
    mode: str = "enforce"
    mode_of_namespace: bool = False
    generation: int = 0
    proved_since: float | None = None


def allows_dns(direction: Direction, rule: Rule) -> bool:
    """Whether a rule's peers may be asked for names."""
    # The specification is loaded where somebody asks: on most nodes nobody does.
    from agent.spec.hints import is_for_dns

    return direction is Direction.EGRESS and is_for_dns(rule)


Look = Callable[[Key], PolicyView | None]
"""Looks at a policy; None where there is none of the name. Raises TimeoutError."""


def rules_route(look: Look) -> Route:
    """Return the route that answers about one policy."""

    def answer(request: Request) -> Response:
        try:
            key = key_of("policy", request.one("policy"))
        except ValueError as error:
            return Response(400, TEXT, f"{error}\n".encode(errors="replace"))
        try:
            found = look(key)
        except TimeoutError as error:
            return Response(503, TEXT, f"the agent is busy: {error}; ask again\n".encode())
        if found is None:
            return Response(404, TEXT, f"no policy {key} is known\n".encode(errors="replace"))
        return Response(200, JSON, msgspec.json.encode(found) + b"\n")

    return Route(answer, "one policy, its rules and what they have counted: ?policy=NS/NAME (JSON)")


def decode(body: bytes) -> PolicyView:
    """Return what was served; raises :class:`agent.decoding.UndecodableError` when it is none."""
    return decode_json(body, PolicyView)
