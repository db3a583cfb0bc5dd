"""What a packet on which kernel and evaluator differ comes from, as small as can be, for people."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from agent.commands import explain
from agent.kube.model import Object
from agent.net import address_text
from agent.spec.cluster import cluster_of
from agent.spec.question import question_of
from agent.spec.verdict import Packet
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.enforcer import Enforcer
from tests.kernel.exact.plan import expect
from tests.kernel.exact.shrink import Objects, shrink
from tests.lab.probe import Verdict
from tests.property.clusters import protocol_name
from tests.property.to_yaml import to_yaml
from tests.property.words import HERE


class DisagreementError(AssertionError):
    """Kernel and evaluator differ on a packet."""


def investigated(
    arena: Arena, enforcer: Enforcer, before: Objects, objects: Objects, wrong: Sequence[Packet]
) -> str:
    """Say what is wrong, with the smallest cluster, or the smallest pair of clusters, that shows it."""
    packet = wrong[0]
    head = f"{len(wrong)} packets wrong ({arena.layout}, {enforcer.kind.name})"

    def shows(candidate: Objects) -> bool:
        enforcer.start_over(candidate)
        return differs(arena, candidate, packet)

    if shows(objects):
        return f"{head}; a fresh start on this cluster shows it:\n{_story(shrink(objects, shows), packet)}"

    def shows_after(first: Objects, then: Objects) -> bool:
        enforcer.start_over(first)
        enforcer.move(then, Random(0))
        return differs(arena, then, packet)

    if not shows_after(before, objects):
        return (
            f"{head}; neither a fresh start nor the last change shows it again.\n"
            f"Before:\n{to_yaml(before)}\nThen:\n{_story(objects, packet)}"
        )
    before = shrink(before, lambda candidate: shows_after(candidate, objects), tries=150)
    objects = shrink(objects, lambda candidate: shows_after(before, candidate), tries=150)
    return (
        f"{head}; a fresh start does not show it, this change does.\n"
        f"Before:\n{to_yaml(before)}\nThen:\n{_story(objects, packet)}"
    )


def differs(arena: Arena, objects: Sequence[Object], packet: Packet) -> bool:
    """Whether the kernel, programmed with a cluster, treats a packet otherwise than the evaluator says."""
    expected = Verdict.ALLOWED if expect(cluster_of(objects), packet).passes else Verdict.DENIED
    return all(verdict is not expected for verdict in (*arena.probe([packet]), *arena.probe([packet])))


def _story(objects: Objects, packet: Packet) -> str:
    passes = expect(cluster_of(objects), packet).passes
    source, destination = address_text(packet.source), address_text(packet.destination)
    service = f"{packet.port}/{protocol_name(packet.protocol)}"
    text = to_yaml(objects)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "cluster.yaml").write_text(text)
        answer = explain.explain([Path(directory)], question_of(source, destination, service))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        explain.show(answer)
    says, does = ("allowed", "denied") if passes else ("denied", "allowed")
    return (
        f"# state: {says} by the specification, {does} by the kernel\n"
        f"# {says}: {source} {destination} {service}\n"
        f"{text}\n"
        f"On node {HERE} that packet should be {says}; it is {does}. Explained:\n{printed.getvalue()}"
    )
