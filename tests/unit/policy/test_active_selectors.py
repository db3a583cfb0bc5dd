"""Which groups of pods match which selectors in use, whatever comes and goes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from agent.kube.model import Operator, Requirement, Selector
from agent.policy.graph import ActiveSelector, Identity
from agent.policy.peers.active_selectors import ActiveSelectors
from agent.policy.peers.identities import Identities
from agent.policy.program import Predicate

NAMESPACES = ("shop", "bank")
LABELS: tuple[dict[str, str], ...] = ({}, {"app": "web"}, {"app": "db"}, {"tier": "x"})
SELECTORS = (
    Selector(),
    Selector((Requirement("app", Operator.IN, ("web",)),)),
    Selector((Requirement("app", Operator.EXISTS, ()),)),
    Selector((Requirement("tier", Operator.DOES_NOT_EXIST, ()),)),
)
PREDICATES = (
    *(Predicate(namespace, None, pods) for namespace in NAMESPACES for pods in SELECTORS),
    *(Predicate(None, namespaces, pods) for namespaces in SELECTORS for pods in SELECTORS),
)

MOVES = st.one_of(
    st.tuples(st.just("selector"), st.sampled_from(PREDICATES)),
    st.tuples(st.just("group"), st.tuples(st.sampled_from(NAMESPACES), st.integers(0, len(LABELS) - 1))),
    st.tuples(
        st.just("namespace"),
        st.tuples(st.sampled_from(NAMESPACES), st.sampled_from((None, *LABELS))),
    ),
)


def matches(predicate: Predicate, group: Identity, namespaces: dict[str, dict[str, str]]) -> bool:
    """Say it as the specification does."""
    if not predicate.pods.matches(group.labels):
        return False
    if predicate.namespaces is None:
        return predicate.namespace == group.namespace
    labels = namespaces.get(group.namespace)
    return labels is not None and predicate.namespaces.matches(labels)


def follow(moves: Iterable[tuple[str, object]], *, at_once: bool) -> None:
    """Check after each move. Terms are matched ``at_once``, or with some groups whenever a move says so."""
    identities = Identities()
    selectors = ActiveSelectors(identities)
    active: dict[Predicate, ActiveSelector] = {}
    groups: dict[tuple[str, int], Identity] = {}
    namespaces: dict[str, dict[str, str]] = {}
    for what, about in moves:
        if what == "selector":
            assert isinstance(about, Predicate)
            term = selectors.activate(about) if at_once else selectors.begin(about)
            if active.pop(about, None) is term:
                selectors.deactivate(term)
                assert not term.groups
            else:
                active[about] = term
        elif isinstance(about, int):
            for term in active.values():
                selectors.go_on(term, about)
        else:
            assert isinstance(about, tuple)
            name, value = about
            if what == "namespace":
                selectors.set_namespace(name, value)
                namespaces.pop(name, None)
                if value is not None:
                    namespaces[name] = value
            elif (group := groups.pop((name, value), None)) is not None:
                selectors.remove_group(group)
                identities.discard(group)
                assert not group.terms
            else:
                group, _ = identities.join(name, LABELS[value])
                selectors.add_group(group)
                groups[name, value] = group
        for one in groups.values():
            wanted = {predicate for predicate in active if matches(predicate, one, namespaces)}
            linked = {term.predicate for term in one.terms}
            assert len(one.terms) == len(linked)
            assert linked == wanted if at_once else linked <= wanted
            assert linked == {predicate for predicate, term in active.items() if one in term.groups}
    for predicate, term in active.items():
        assert selectors.activate(predicate) is term
        assert set(term.groups) == {g for g in groups.values() if matches(predicate, g, namespaces)}
    assert selectors.sizes()["terms"] == len(active)
    assert selectors.sizes()["groups to be matched"] == 0


@given(st.lists(MOVES, max_size=30))
def test_each_knows_of_the_other_whatever_came_and_went(moves: list[tuple[str, object]]) -> None:
    follow(moves, at_once=True)


def some_moves(seed: int) -> Iterator[tuple[str, object]]:
    """Yield moves of few selectors and many groups."""
    chosen = random.Random(seed)
    predicates = chosen.sample(PREDICATES, 4)
    for namespace in NAMESPACES:
        yield "namespace", (namespace, chosen.choice(LABELS))
        yield from (("group", (namespace, number)) for number in range(len(LABELS)))
    for _ in range(40):
        yield chosen.choice(
            (
                ("selector", chosen.choice(predicates)),
                ("match", 1),
                ("group", (chosen.choice(NAMESPACES), chosen.randrange(len(LABELS)))),
                ("namespace", (chosen.choice(NAMESPACES), chosen.choice((None, *LABELS)))),
            )
        )


def test_each_knows_of_the_other_while_some_groups_are_not_matched_yet() -> None:
    for seed in range(300):
        follow(some_moves(seed), at_once=False)


def test_groups_that_the_same_selectors_match_share_what_says_so() -> None:
    """10,000 groups of a tenant would each have a set that grows with each of its peers."""
    identities = Identities()
    selectors = ActiveSelectors(identities)
    groups = [identities.join("shop", {"n": str(number)})[0] for number in range(20)]
    for group in groups:
        selectors.add_group(group)
    lacking = [
        Predicate("shop", None, Selector((Requirement(f"k{n}", Operator.DOES_NOT_EXIST, ()),)))
        for n in range(20)
    ]
    terms = [selectors.activate(predicate) for predicate in lacking]
    assert {id(group.terms) for group in groups} == {id(groups[0].terms)}
    assert groups[0].terms == tuple(terms)
    for term in terms[5:15]:
        selectors.deactivate(term)
    assert {id(group.terms) for group in groups} == {id(groups[0].terms)}
    assert groups[0].terms == (*terms[:5], *terms[15:])
