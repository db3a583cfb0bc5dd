"""How random things are chosen: one small interface, and the two that choose through it.

What a random cluster is, is said once, by functions that take :class:`Choices`. :class:`Seeded` chooses by
a seed, fast and by the thousand: the same seed gives the same things. :func:`drawn` makes a Hypothesis
strategy, for tests that want the smallest counter-example. :func:`tried` has both: it looks by seeds, and
where it finds a failure, it looks for the smallest.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

import hypothesis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

T = TypeVar("T")

Maker = Callable[["Choices"], T]


class Choices(Protocol):
    """Makes choices. What is named first is the simplest: a counter-example is made small towards it."""

    def integer(self, least: int, most: int) -> int:
        """Return an integer, both ends included."""

    def one_of(self, values: Sequence[T]) -> T:
        """Return one of some values; one that is named twice comes twice as often."""

    def several(
        self, make: Maker[T], least: int, most: int, *, unlike: Callable[[T], Hashable] | None = None
    ) -> list[T]:
        """Return so many of what a function makes; ``unlike``: no two for which this gives the same."""


def either(choices: Choices, *makers: Maker[T]) -> T:
    """Return what one of some functions makes."""
    return choices.one_of(makers)(choices)


def rarely(choices: Choices, one_in: int = 10) -> bool:
    """Return whether something happens that happens once in so many times."""
    return choices.integer(0, one_in - 1) == one_in - 1


class Seeded:
    """Choices by a random number generator of the standard library."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def integer(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def one_of(self, values: Sequence[T]) -> T:
        return self._random.choice(values)

    def several(
        self, make: Maker[T], least: int, most: int, *, unlike: Callable[[T], Hashable] | None = None
    ) -> list[T]:
        count = self._random.randint(least, most)
        found: dict[Hashable, T] = {}
        for attempt in itertools.count():
            # There may be fewer that are unlike each other than were wished for.
            if len(found) == count or (len(found) >= least and attempt > 4 * count):
                return list(found.values())
            one = make(self)
            found.setdefault(attempt if unlike is None else unlike(one), one)
        raise AssertionError


class _Drawn:
    """Choices by Hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, least: int, most: int) -> int:
        return self._draw(_integers(least, most))

    def one_of(self, values: Sequence[T]) -> T:
        return values[self._draw(_integers(0, len(values) - 1))]

    def several(
        self, make: Maker[T], least: int, most: int, *, unlike: Callable[[T], Hashable] | None = None
    ) -> list[T]:
        # Lists of Hypothesis know how to leave out one of theirs.
        return self._draw(st.lists(drawn(make), min_size=least, max_size=most, unique_by=unlike))


@functools.cache
def _integers(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(least, most)


@st.composite
def drawn(draw: st.DrawFn, make: Maker[T]) -> T:
    """Return a strategy of what a function makes."""
    if _by_seeds and (seed := draw(_SEEDS)) % _ONE_IN:
        return make(Seeded(Random(seed)))
    return make(_Drawn(draw))


_ONE_IN = 10
"""Of so many things one is drawn choice by choice also where seeds are used."""

_SEEDS = st.integers(0, (1 << 24) - 1)
_by_seeds = False


@contextlib.contextmanager
def _seeds() -> Iterator[None]:
    global _by_seeds
    _by_seeds = True
    try:
        yield
    finally:
        _by_seeds = False


def tried(
    *strategies: st.SearchStrategy[Any], max_examples: int | None = None, seed: int | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator like Hypothesis' ``given``, for strategies with something :func:`drawn` in them.

    Most of what is drawn is made by a seed, which is one choice where Hypothesis makes hundreds: these took
    half of the time of most tests. When the test fails, it is run again as ``given`` does, which finds the
    smallest counter-example; if that finds none, the first failure is raised.
    """
    count = settings().max_examples if max_examples is None else max_examples

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def made(**options: Any) -> Callable[..., None]:
            found = settings(max_examples=count, **options)(given(*strategies)(test))
            return found if seed is None else hypothesis.seed(seed)(found)

        # The same seeds in every run, so that none fails for what another did not try.
        phases = (Phase.explicit, Phase.generate)
        quick, thorough = made(phases=phases, derandomize=True, database=None), made()

        @functools.wraps(test)
        def run(*arguments: Any, **fixtures: Any) -> None:
            try:
                with _seeds():
                    quick(*arguments, **fixtures)
            except Exception as error:
                first = error
            else:
                return
            thorough(*arguments, **fixtures)
            raise first

        del run.__wrapped__
        # Without what the strategies give, as pytest takes the rest for fixtures.
        run.__signature__ = inspect.signature(thorough)  # type: ignore[attr-defined]
        return run

    return decorate
