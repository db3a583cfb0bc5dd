"""From a policy to a line. What a line would not say exactly is refused, with the reason."""

from __future__ import annotations

from agent.convert import read
from agent.convert.body import derived_name, write_body
from agent.convert.statement import LABEL, MODES, Statement, normal
from agent.convert.words import LineError
from agent.kube.model import Peer


class CannotSayError(Exception):
    """A policy that no line says exactly; the message says why, and what to do."""


def write_line(statement: Statement, label: str = LABEL) -> str:
    """Return the line that is read as this policy, in :func:`normal` form. Raises CannotSayError."""
    policy, mode = statement
    if policy.ignored:
        direction = policy.ignored[0]
        raise CannotSayError(
            f"its rules for {direction} have no effect, and no line says such rules: remove them, or name "
            f"{direction.capitalize()} in policyTypes"
        )
    if mode and mode not in MODES:
        raise CannotSayError(f"its mode is {mode[:40]!r}: write one of {', '.join(MODES)}")
    if policy.ingress is None and policy.egress is None:
        raise CannotSayError("it names no direction, so it does nothing: remove it")
    rules = (*(policy.ingress or ()), *(policy.egress or ()))
    if any(peer == Peer() for rule in rules for peer in rule.peers):
        raise CannotSayError("it has a peer that matches nothing, and no line says one: remove it")
    line = write_body(policy, label)
    if policy.name != derived_name(policy, label):
        line += f" as {policy.name}"
    if mode:
        line += f" mode {mode}"
    try:
        again = read.read_line(line, label)
    except LineError as error:
        raise CannotSayError(f"a line of it could not be read again: {error}") from None
    if (normal(again.policy), again.mode) != (normal(policy), mode):
        raise CannotSayError("a line of it would mean another policy; keep the manifest")
    return line
