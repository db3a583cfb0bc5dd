"""``netpol-agent verify``: the agent's proof, asked for and told."""

from __future__ import annotations

import urllib.parse

from rich.console import Console
from rich.markup import escape

from agent.decoding import UndecodableError, decode
from agent.observe import client
from agent.observe.client import UnreachableError
from agent.observe.proof import ANSWER_SECONDS
from agent.proof.difference import Result
from agent.words import count

SHOWN = 10
"""Differences that are shown to a person."""


def ask(url: str, pod: str) -> tuple[bytes, Result]:
    """Return what the agent's proof says, as served and decoded. Raises :class:`UnreachableError`."""
    query = f"?{urllib.parse.urlencode({'pod': pod})}" if pod else ""
    body = client.get(url, f"/verify{query}", seconds=ANSWER_SECONDS)
    try:
        return body, decode(body, Result)
    except UndecodableError as error:
        raise UnreachableError(f"what answers at {url} is no netpol-agent of this version: {error}") from None


def refusal(found: Result, pod: str) -> str:
    """Say why nothing was proved about a pod whose address is not known here; empty if something was."""
    if not pod or found.addresses or found.differences:
        return ""
    return (
        f"nothing was proved: the agent knows no address of pod {pod} on this node. Check its name, its node "
        "(kubectl get pod -o wide says it), and that it is not on its host's network."
    )


def show(found: Result, pod: str, console: Console) -> None:
    """Print what a proof has found, the smallest difference first, and how long it took."""
    addresses = "1 address" if found.addresses == 1 else f"{found.addresses} addresses"
    whose = f"{addresses} of {f'pod {pod}' if pod else 'pods here'}"
    if found.differences:
        console.print(f"[red]not proved[/]: {count(len(found.differences), 'difference')}", soft_wrap=True)
        for one in found.differences[:SHOWN]:
            console.print(f"  {escape(one.said)}", soft_wrap=True)
        if len(found.differences) > SHOWN:
            console.print(f"  and {len(found.differences) - SHOWN} more: --json has them all")
    else:
        console.print(
            f"[green]proved[/]: for every packet the kernel does what the policies say, {escape(whose)}, "
            f"{found.isolated} of them isolated",
            soft_wrap=True,
        )
    if found.links and not any(one.frames for one in found.differences):
        console.print(f"  {count(found.links, 'link')} of pods: each sends nothing but its own frames")
    for note in found.notes:
        console.print(f"  beside this: {escape(note)}", soft_wrap=True)
    console.print(f"  {found.reading:.2f} s to read the kernel, {found.comparing:.2f} s to compare")
