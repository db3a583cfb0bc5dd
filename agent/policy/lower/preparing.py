"""What takes long about a policy, done before its turn: a part in each step, so that no step takes long."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.kube.model import Key, NetworkPolicy
from agent.net import Direction, Family
from agent.policy.compile import compile_policy
from agent.policy.lower.blocks import Parts
from agent.policy.lower.live import Definition
from agent.policy.lower.lowered import SetId
from agent.policy.lower.policy import Lowered, lower_in_parts
from agent.policy.lower.sets import Sets

FEWEST = 1_000
"""To begin a set counts as so many members: its selectors are looked up, too."""


@dataclass
class _Begun:
    policy: NetworkPolicy
    families: tuple[Family, ...]
    directions: list[Direction]
    """In which it is to be lowered."""
    lowered: dict[Direction, Lowered] = field(default_factory=dict)
    todo: dict[SetId, Definition] = field(default_factory=dict)
    held: list[SetId] = field(default_factory=list)
    whole: bool = True
    """Whether the last of these is filled."""
    lowering: Parts[Lowered | None] | None = None
    """The rest of it in the last of the directions."""

    @property
    def left(self) -> int:
        """How many parts are left."""
        return len(self.directions) + len(self.todo) + (not self.whole)


class Preparing:
    """Lowers a policy before its turn, and asks for its sets in its place, until the policy itself does.

    Handles: a policy whose turn comes, changes or goes while its sets are being filled; targets in another
    family. Sets that are in no program are kept up to date as all others are, and nobody is told of them.
    """

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self._begun: dict[Key, _Begun] = {}

    def go_on(
        self, key: Key, policy: NetworkPolicy, families: tuple[Family, ...], most: int
    ) -> tuple[int, int]:
        """Lower a part of a policy, or fill sets of it with about so many members; 0: neither.

        Return how many parts are left, of all. In the step that a policy comes in, and in one that lowers it,
        nothing else is to be done: so one part more is left then.
        """
        begun = self._begun.get(key)
        if begun is None or begun.policy is not policy or begun.families != families:
            self.let_go(key)
            begun = self._begun[key] = _begin(policy, families)
            return begun.left + 1, begun.left + 1
        if begun.directions and most:
            _lower(begun)
            return begun.left + 1, begun.left + 1
        if not most:
            return max(1, begun.left), max(1, begun.left + len(begun.held))
        done = 0
        while done < most and (begun.todo or not begun.whole):
            if begun.whole:
                set_id, definition = begun.todo.popitem()
                self._sets.begin(set_id, definition)
                begun.held.append(set_id)
                begun.whole = False
                done += FEWEST
            else:
                some = self._sets.fill(begun.held[-1], most - done)
                begun.whole = not some
                done += some
        return begun.left, begun.left + len(begun.held)

    def lowered(
        self, key: Key, policy: NetworkPolicy, families: tuple[Family, ...], direction: Direction
    ) -> Lowered | None:
        """Return a policy in one direction, lowered, if that has been prepared."""
        begun = self._begun.get(key)
        if begun is None or begun.policy is not policy or begun.families != families:
            return None
        return begun.lowered.get(direction)

    def let_go(self, key: Key) -> None:
        """Ask for the sets of a policy no more: it asks itself, or is gone."""
        begun = self._begun.pop(key, None)
        for set_id in begun.held if begun is not None else ():
            self._sets.release(set_id)

    def sizes(self) -> dict[str, int]:
        return {"policies being prepared": len(self._begun)}


def _begin(policy: NetworkPolicy, families: tuple[Family, ...]) -> _Begun:
    directions = [direction for direction in Direction if policy.rules(direction) is not None]
    return _Begun(policy, families, directions)


def _lower(begun: _Begun) -> None:
    """Lower a part of a policy in one direction."""
    direction = begun.directions[-1]
    if begun.lowering is None:
        begun.lowering = _in_parts(begun.policy, direction, begun.families)
    try:
        next(begun.lowering)
    except StopIteration as end:
        begun.directions.pop()
        begun.lowering = None
        found: Lowered | None = end.value
        if found is not None:
            begun.lowered[direction] = found
            begun.todo |= found.sets


def _in_parts(
    policy: NetworkPolicy, direction: Direction, families: tuple[Family, ...]
) -> Parts[Lowered | None]:
    program = compile_policy(policy, direction)
    return None if program is None else (yield from lower_in_parts(program, direction, families))
