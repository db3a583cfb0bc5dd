"""``netpol-agent watch``: denied and allowed connections, as the agent on this node reports them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable

import click

from agent.commands.options import answering, tell
from agent.dataplane.logged import Decided
from agent.decoding import UndecodableError, decode
from agent.kube.logging import ALLOWED_ANNOTATION, DENIED_ANNOTATION, Amount
from agent.observe.client import get
from agent.observe.flows.client import follow
from agent.observe.flows.flow import as_text, from_json
from agent.observe.flows.hub import Wanted
from agent.words import printable

_COLOURS = {
    f" {Decided.DENIED} ": "red",
    f" {Decided.WOULD_DENY} ": "magenta",
    f" {Decided.ALLOWED} ": "green",
    " not logged": "yellow",
}


def wanted_of(*, denied: bool, allowed: bool, audited: bool, pod: str, policy: str) -> Wanted:
    """Return what is asked for; every verdict, where none or several are named.

    A pod or a policy without a namespace is one of the namespace default.
    """
    named = {Decided.DENIED: denied, Decided.ALLOWED: allowed, Decided.WOULD_DENY: audited}
    chosen = [verdict for verdict, is_named in named.items() if is_named]
    verdict = chosen[0] if len(chosen) == 1 else None
    return Wanted(verdict, *(name and (name if "/" in name else f"default/{name}") for name in (pod, policy)))


def watch(url: str, wanted: Wanted, last: int, *, as_json: bool) -> None:
    """Print what comes until the agent ends, or Ctrl-C. Raises UnreachableError where no agent answers."""
    tell(not_logged(get(url, "/settings"), wanted), ())
    with contextlib.suppress(KeyboardInterrupt):
        show(follow(url, wanted, last), as_json=as_json)


def not_logged(settings: bytes, wanted: Wanted) -> list[str]:
    """Return as a note that the agent logs nothing of what is wanted by itself, by its settings as served.

    Else who watches waits, and takes the silence for an answer.
    """
    try:
        told = decode(settings, dict[str, object])
    except UndecodableError:
        return []
    both = {
        Decided.DENIED: ("log_denied", DENIED_ANNOTATION),
        Decided.ALLOWED: ("log_allowed", ALLOWED_ANNOTATION),
    }
    asked = [both[verdict] for verdict in both if wanted.verdict in (None, verdict)]
    if not asked or any(told.get(setting) != Amount.OFF for setting, _ in asked):
        return []
    flags = " and ".join(f"--{setting.replace('_', '-')}" for setting, _ in asked)
    annotations = " or ".join(annotation for _, annotation in asked)
    audited = "" if wanted.verdict else ", and what audited policies would deny"
    return [
        f"the agent runs with {flags} off: shown are connections of pods and namespaces with the annotation "
        f"{annotations}{audited}"
    ]


def show(lines: Iterable[bytes], *, as_json: bool) -> None:
    """Print lines of JSON as they are, or for people, in colour on a terminal only."""
    for line in lines:
        if as_json:
            with answering():
                click.echo(line.decode(errors="replace"))
                sys.stdout.flush()
            continue
        try:
            report = from_json(line)
        except UndecodableError:
            continue
        text = as_text(report) if report is not None else "some reports came too fast and were left out"
        colour = next((colour for word, colour in _COLOURS.items() if word in text[:30]), None)
        with answering():
            click.secho(printable(text), fg=colour)
            sys.stdout.flush()
