"""The fewest restore lines that turn the chains that are into the chains that are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

Rules = tuple[str, ...]

R = TypeVar("R", bound=str)
"""Rules as values, or as text."""


def insertions(old: Rules, new: tuple[R, ...]) -> list[tuple[int, R]] | None:
    """Return what to insert, as (position from 1, rule) in order; None when more than that is needed."""
    found = []
    at = 0
    for position, rule in enumerate(new, start=1):
        if at < len(old) and old[at] == rule:
            at += 1
        else:
            found.append((position, rule))
    return found if at == len(old) else None


def lines(current: Mapping[str, Rules], wanted: Mapping[str, Rules]) -> list[str]:
    """Return the lines that give each wanted chain its rules, changing nothing else.

    A chain that only gains rules has them inserted, since the kernel takes much longer over a transaction
    that removes anything. Chains are declared before rules, so these may refer to any of them.
    """
    declared: list[str] = []
    rules: list[str] = []
    for chain, new in wanted.items():
        old = current.get(chain)
        if old == new:
            continue
        inserted = insertions(old, new) if old is not None else None
        if old is None or inserted is None:
            # Declaring a chain that exists empties it, within the same transaction.
            declared.append(f":{chain} - [0:0]")
            rules += [f"-A {chain} {rule}" for rule in new]
            continue
        length = len(old)
        for position, rule in inserted:
            rules.append(f"-A {chain} {rule}" if position > length else f"-I {chain} {position} {rule}")
            length += 1
    return declared + rules


def parts(chains: Mapping[str, tuple[R, ...]], size: int) -> list[tuple[list[str], dict[str, tuple[R, ...]]]]:
    """Divide the making of new chains into transactions of about ``size`` lines, to be run in order.

    Returns for each its lines and what the chains that it completes then hold. The first one declares all of
    them, empty, so that rules may refer to any; a chain's rules are never divided.
    """
    found: list[tuple[list[str], dict[str, tuple[R, ...]]]] = [
        ([f":{chain} - [0:0]" for chain in chains], dict.fromkeys(chains, ()))
    ]
    for chain, rules in chains.items():
        if len(found) == 1 or len(found[-1][0]) >= size:
            found.append(([], {}))
        lines, whole = found[-1]
        lines += [f"-A {chain} {rule}" for rule in rules]
        whole[chain] = rules
    return found


def deletions(chains: Iterable[str]) -> list[str]:
    """Return the lines that remove chains, which may refer to one another."""
    doomed = sorted(chains)
    return [f":{chain} - [0:0]" for chain in doomed] + [f"-X {chain}" for chain in doomed]


def outcome(current: Mapping[str, Rules], lines: Iterable[str]) -> dict[str, Rules | None]:
    """Return what the chains that such lines name hold when these have been run; None: it is gone."""
    found: dict[str, list[str] | None] = {}
    for line in lines:
        command, chain, *rest = line.split(" ", 2)
        if command.startswith(":"):
            found[command[1:]] = []
            continue
        if command == "-X":
            found[chain] = None
            continue
        rules = found.setdefault(chain, list(current.get(chain, ())))
        if rules is None or command not in ("-A", "-I"):
            continue
        if command == "-A":
            rules += rest
        else:
            position, _, rule = rest[0].partition(" ")
            rules.insert(int(position) - 1, rule)
    return {chain: None if rules is None else tuple(rules) for chain, rules in found.items()}
