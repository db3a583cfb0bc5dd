"""``netpol-agent matrix``, ``list`` and ``diff``: who may reach whom, and what a change does to that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agent.commands.objects import read_server
from agent.kube.model import IPBlock, NetworkPolicy
from agent.reach.admits import Rules
from agent.reach.difference import Difference, difference
from agent.reach.ends import By, End, Place, outside, pods_at
from agent.reach.exposure import Exposure, exposure
from agent.reach.given import Given, given, overlaid, rolled_out
from agent.reach.known import blocks_of, know
from agent.reach.matrix import Matrix, matrix, ordered
from agent.reach.named import Unknown, block_of, named
from agent.reach.ports import ALL, Ports
from agent.sources.manifests.once import Read, read_once


class Asked(NamedTuple):
    """What is asked for: the ends by name, the ports, and what one end stands for.

    ``focus`` are ends of which one must be an end of a connection; ``sources`` and ``destinations`` are those
    that it must begin and end at. None of them: any.
    """

    focus: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    ports: Ports = ALL
    by: By = By.WORKLOAD

    @property
    def named(self) -> tuple[str, ...]:
        return (*self.focus, *self.sources, *self.destinations)


class NotThereError(Exception):
    """An end that is asked for is not there; the message says what to write."""


def from_files(places: Sequence[Path]) -> Read:
    return read_once(places, workloads=True)


def from_cluster(kubeconfig: str | None, context: str | None) -> Read:
    """Read what an API server has now. Raises ReadError."""
    return read_server(kubeconfig, context, workloads=True)


def given_by(read: Read) -> Given:
    """Return the cluster that was read, with all that there is to note and what was refused."""
    found = given(read.objects, read.facts, read.workloads)
    return found._replace(notes=(*read.notes, *found.notes), refused=(*read.refused, *found.refused))


def changed_by(before: Read, after: Read) -> Given:
    """Return a cluster as it is when a change of files is applied to it."""
    facts = (*before.facts, *after.facts)
    held = overlaid(rolled_out(before.objects, before.facts, after.workloads), after.objects)
    found = given(held, facts, (*after.workloads, *before.workloads))
    return found._replace(notes=(*after.notes, *found.notes), refused=(*after.refused, *found.refused))


def matrix_of(one: Given, asked: Asked) -> Matrix:
    """Say who may reach whom. Raises NotThereError."""
    (rules,), (ends,) = _known([one], asked)
    return _matrix(one, rules, ends, asked, strict=True)


def exposure_of(one: Given, asked: Asked) -> list[Exposure]:
    """Say what each end that is asked for lets pods do that do not exist yet. Raises NotThereError."""
    (rules,), (ends,) = _known([one], asked)
    found: dict[End, Place] = {} if asked.focus else ends
    for text in asked.focus:
        these = named(text, one, rules, ends)
        if isinstance(these, Unknown):
            raise NotThereError(these.why)
        found.update(these)
    return list(exposure(rules, {end: found[end] for end in ordered([found]) if not end.outside}))


def difference_of(before: Given, after: Given, asked: Asked) -> Difference:
    """Say what differs. Raises NotThereError for an end that neither side has."""
    all_rules, ends = _known([before, after], asked)
    sides = list(zip((before, after), all_rules, ends, strict=True))
    for text in asked.named:
        found = [named(text, *side) for side in sides]
        if all(isinstance(one, Unknown) for one in found):
            raise NotThereError(str(getattr(found[-1], "why", "")))
    one, other = (_matrix(*side, asked, strict=False) for side in sides)
    order = ordered([dict.fromkeys((*m.sources, *m.destinations), Place({})) for m in (one, other)])
    return difference(one, other, tuple(order))


def _known(clusters: Sequence[Given], asked: Asked) -> tuple[list[Rules], list[dict[End, Place]]]:
    """Take clusters apart alike, so that an end of one is the same in the others."""
    apart: set[IPBlock] = {block for text in asked.named if (block := block_of(text)) is not None}
    policies: list[NetworkPolicy] = [p for one in clusters for p in one.cluster.policies.values()]
    blocks = apart | blocks_of(policies)
    all_rules = [Rules(know(one.cluster, blocks)) for one in clusters]
    mask = sum(1 << number for number, block in enumerate(sorted(blocks)) if block in apart)
    others = outside(all_rules, mask)
    pods = [pods_at(rules, one.owners, asked.by) for one, rules in zip(clusters, all_rules, strict=True)]
    return all_rules, [{**mine, **more} for mine, more in zip(pods, others, strict=True)]


def _matrix(one: Given, rules: Rules, ends: dict[End, Place], asked: Asked, *, strict: bool) -> Matrix:
    def chosen(texts: Sequence[str]) -> dict[End, Place]:
        found: dict[End, Place] = {}
        for text in texts:
            these = named(text, one, rules, ends)
            if not isinstance(these, Unknown):
                found.update(these)
            elif strict:
                raise NotThereError(these.why)
        return found

    order = {end: number for number, end in enumerate(ordered([ends]))}
    all_ends = dict(sorted(ends.items(), key=lambda item: order[item[0]]))
    focus = chosen(asked.focus)
    sources = chosen(asked.sources) if asked.sources else {**all_ends, **focus}
    destinations = chosen(asked.destinations) if asked.destinations else {**all_ends, **focus}
    found = matrix(rules, sources, destinations, asked.ports)
    if not asked.focus:
        return found
    cells = {pair: cell for pair, cell in found.cells.items() if not focus.keys().isdisjoint(pair)}
    return Matrix(found.sources, found.destinations, cells, found.ports)
