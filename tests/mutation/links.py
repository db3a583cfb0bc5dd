"""Breakages of how isolated pods are judged by their links."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

_LINKED = "agent/dataplane/iptables/rules/linked.py"
_PODLINKS = "agent/dataplane/podlinks.py"

LINKS = (
    Mutation(
        "an address honest by whichever link it comes",
        _LINKED,
        'number: [f"{self._side} {{}} {self._by(link)} -g {allowed}" for link in its]',
        'number: [f"{self._side} {{}} -g {allowed}" for link in its]',
        (Selection.LINKED,),
    ),
    Mutation(
        "what is strange to a link let go on",
        _LINKED,
        'f"{unmarked} -g {last}",',
        "",
        (Selection.LINKED,),
    ),
    Mutation(
        "a link that is nobody's for certain left open",
        _LINKED,
        "if link.pod is None:\n        return ()",
        "if link.pod is None:\n        return None",
        (Selection.LINKED,),
    ),
    Mutation(
        "one name looked for in place of all that begin like it",
        _LINKED,
        "self._by(group[0], f'{start}+')",
        "self._by(group[0], start)",
        (Selection.LINKED,),
    ),
    Mutation(
        "an open pod's address judged as an isolated one's, where both claim it",
        _LINKED,
        "if all(link in closed for link in its)",
        "if any(link in closed for link in its)",
        (Selection.LINKED,),
    ),
    Mutation(
        "whoever claims an address last has the link",
        _PODLINKS,
        "if there and pod not in taken and any(",
        "if False and any(",
        (Selection.PODLINKS,),
    ),
    Mutation(
        "one of two links that claim the same pod believed",
        _PODLINKS,
        "for pod, indexes in alone.items() if len(indexes) == 1",
        "for pod, indexes in alone.items()",
        (Selection.PODLINKS,),
    ),
    Mutation(
        "a pod that forwards for others taken for all of them",
        _PODLINKS,
        "for index, pods in routed.items() if len(pods) == 1",
        "for index, pods in routed.items()",
        (Selection.PODLINKS,),
    ),
)
