"""Steps that wait for another step's command, and the part of them that does not wait.

What takes something away is done at once, by members of sets. The rest waits, all in one step: peers that
left are gone before chains change and others are added, so no packet passes that neither the state before nor
the one after allows. Some that both allow may be denied until the step is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import filterfalse

from agent.dataplane.iptables.change.step import Gains, Step
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import merged, sets_in
from agent.net import Family, Member


def losses(step: Step) -> dict[str, set[Member]]:
    """Return the members that leave sets of peers, ports and nodes, by the names a set may have."""
    found: dict[str, set[Member]] = {}
    for name, gains in (*step.live.items(), *step.known.items(), *step.otherwise.items()):
        if not names.is_isolated_set(name):
            for each in (name, names.counterpart(name)):
                found.setdefault(each, set()).update(gains.removed)
    return found


def isolations(step: Step) -> dict[str, set[Member]]:
    """Return the addresses that enter sets of isolated ones, by the names such a set may have."""
    found: dict[str, set[Member]] = {}
    for name, gains in (*step.isolated.items(), *step.otherwise.items()):
        if names.is_isolated_set(name):
            for each in (name, names.counterpart(name)):
                found.setdefault(each, set()).update(gains.added)
    return found


def yield_to(step: Step, later: Step) -> None:
    """Have a step add nobody whom a later one removes, and open nobody whom that isolates."""
    for name, lost in losses(later).items():
        for changes in (step.live, step.unseen, step.known):
            if name in changes:
                changes[name].added -= lost
        if name in step.fresh:
            step.fresh[name][1].difference_update(lost)
    for name in filterfalse(names.is_isolated_set, later.fresh):
        # It went meanwhile, and nobody told of those who left it until it came again.
        members = later.fresh[name][1]
        for changes in (step.live, step.unseen):
            if name in changes:
                changes[name].added &= members
        if name in step.fresh:
            step.fresh[name][1].intersection_update(members)
    for name, closed in isolations(later).items():
        if name in step.isolated:
            step.isolated[name].removed -= closed
        if name in step.fresh:
            step.fresh[name][1].update(closed)


def both(first: Step, second: Step, stays: Callable[[Family, str], bool]) -> Step:
    """Return one step for two, made one after the other; the first has yielded to the second.

    ``stays``: whether a chain is in the kernel, and will be until these steps are made.
    """
    chains = merged(first.chains, second.chains)
    spent = set(first.spent)
    for family, before in first.chains.items():
        for chain, rules in before.items():
            if rules is not None and chains[family][chain] is None and not stays(family, chain):
                # The tree still leads to it, until it is given another shape.
                chains[family][chain] = ()
                spent.add((family, chain))
    found = Step(
        chains,
        fresh={**{n: made for n, made in first.fresh.items() if n not in second.dropped}, **second.fresh},
        live=_one_after_the_other(first.live, second.live),
        unseen=_one_after_the_other(first.unseen, second.unseen),
        isolated=_one_after_the_other(first.isolated, second.isolated),
        released=first.released | second.released,
        vacant=first.vacant - (second.released - second.vacant) | second.vacant,
        dropped=first.dropped - second.fresh.keys() | second.dropped,
        otherwise=_one_after_the_other(first.otherwise, second.otherwise),
        known=_known_after(first.known, second.known),
        networks=_one_after_the_other(first.networks, second.networks),
        spent=spent
        - {(f, c) for f, after in second.chains.items() for c, rules in after.items() if rules is not None},
    )
    _spare(found, second)
    for changes in (found.live, found.unseen):
        for name in changes.keys() & found.fresh.keys():
            # It is made with whom it is to hold; the program's own set would be changed under it.
            shape, members = found.fresh[name]
            found.fresh[name] = (shape, members - changes[name].removed | changes[name].added)
            del changes[name]
    for changes in (found.live, found.unseen, found.isolated):
        for name in changes.keys() & found.dropped:
            del changes[name]
    return found


def _spare(found: Step, second: Step) -> None:
    """Have a step of two take out nobody whom the second lets in, nor isolate whom that opens.

    What the first takes away may stand elsewhere than what the second gives: with sets that rules are to let
    go of, which may come again, or be known by their other name.
    """
    for name, entering in second.unseen.items():
        if name in found.live:
            found.live[name].removed -= entering.added
    for name, gains in found.otherwise.items():
        for each in (name, names.counterpart(name)):
            if names.is_isolated_set(name):
                if each in second.isolated:
                    gains.added -= second.isolated[each].removed
                if each in second.fresh:
                    gains.added &= second.fresh[each][1]
                continue
            for changes in (second.live, second.unseen):
                if each in changes:
                    gains.removed -= changes[each].added
            if each in second.fresh:
                gains.removed -= second.fresh[each][1]


def independent(step: Step, current: Step) -> bool:
    """Whether a step can be made before one that was planned before it: they touch nothing in common.

    Nor does it look at what the other one makes.
    """
    for family, chains in step.chains.items():
        theirs = current.chains.get(family, {})
        targets = {rule.target for rules in chains.values() for rule in rules or ()}
        if theirs.keys() & (chains.keys() | targets):
            return False
    used = {name for c in step.chains.values() for rules in c.values() for name in sets_in(rules or ())}
    return not _sets_of(current) & (_sets_of(step) | used) - _apart(step, current)


def _sets_of(step: Step) -> set[str]:
    usual = {*step.fresh, *step.dropped, *touched(step)}
    return usual | set(map(names.counterpart, usual))


def _apart(step: Step, current: Step) -> set[str]:
    """Return the sets of known addresses in which two steps change other addresses, so in any order."""
    changed = current.known.keys() - current.fresh.keys() - current.dropped
    usual = {
        name
        for name in step.known.keys() & changed
        if not _addresses(step.known[name]) & _addresses(current.known[name])
    }
    return usual | set(map(names.counterpart, usual))


def _addresses(gains: Gains) -> set[Member]:
    return gains.added | gains.removed


def touched(step: Step) -> Iterable[str]:
    """Return the sets whose members a step changes where they are."""
    live = {*step.live, *step.unseen, *step.isolated, *step.known, *step.networks, *step.otherwise}
    return {*live, *losses(step), *isolations(step)}


def _one_after_the_other(first: dict[str, Gains], second: dict[str, Gains]) -> dict[str, Gains]:
    found = {name: Gains(set(gains.added), set(gains.removed)) for name, gains in first.items()}
    for name, gains in second.items():
        before = found.setdefault(name, Gains())
        before.added = before.added - gains.removed | gains.added
        before.removed = before.removed - gains.added | gains.removed
    return found


def _known_after(first: dict[str, Gains], second: dict[str, Gains]) -> dict[str, Gains]:
    """Return both changes of known addresses as one, in which all that leave do so before any enters."""
    found = {name: Gains(set(gains.added), set(gains.removed)) for name, gains in first.items()}
    for name, gains in second.items():
        before = found.setdefault(name, Gains())
        before.added = before.added - gains.removed | gains.added
        before.removed |= gains.removed
    return found
