"""A selector of many requirements means what they mean one by one, and takes no longer than one of few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.model import Operator, Requirement, Selector
from tests.property.oracle import matches

_keys = st.sampled_from("abc")
_values = st.integers(0, 39).map("{:02}".format)
_with_values = st.builds(
    lambda key, operator, values: Requirement(key, operator, tuple(sorted(values))),
    _keys,
    st.sampled_from((Operator.IN, Operator.NOT_IN)),
    st.one_of(st.sets(_values, min_size=1, max_size=3), st.sets(_values, min_size=36, max_size=40)),
)
_without = st.builds(Requirement, _keys, st.sampled_from((Operator.EXISTS, Operator.DOES_NOT_EXIST)))
# Many of the same kind, so that the whole of them does not match nothing most of the time.
_loose = st.builds(
    Requirement, st.sampled_from("bcdefg"), st.just(Operator.NOT_IN), _values.map(lambda value: (value,))
)
_selectors = st.builds(
    lambda some, many: Selector(tuple(sorted({*some, *many}))),
    st.sets(st.one_of(_with_values, _without), max_size=4),
    st.one_of(st.just(set()), st.sets(_loose, min_size=16, max_size=40)),
)


@given(_selectors, st.dictionaries(_keys, _values))
def test_a_selector_matches_where_each_requirement_holds(selector: Selector, labels: dict[str, str]) -> None:
    assert selector.matches(labels) is matches(selector, labels)


class Asked(str):
    """A label's value that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Asked.compared += 1
        return str(self) == other

    def __lt__(self, other: str) -> bool:
        Asked.compared += 1
        return str(self) < other

    def __gt__(self, other: str) -> bool:
        Asked.compared += 1
        return str(self) > other

    __hash__ = str.__hash__


class Labels(dict[str, str]):
    """Labels that count how often they are looked up."""

    looked_up = 0

    def get(self, key: str, _: object = None) -> str | None:  # type: ignore[override]
        self.looked_up += 1
        return super().get(key)


def test_what_is_asked_of_a_label_does_not_grow_with_the_values_of_a_requirement() -> None:
    values = tuple(f"{number:05}" for number in range(10_000))
    for operator in (Operator.IN, Operator.NOT_IN):
        Asked.compared = 0
        selector = Selector((Requirement("app", operator, values),))
        assert selector.matches({"app": Asked("05000")}) is (operator is Operator.IN)
        assert Asked.compared < 30


@pytest.mark.parametrize("operator", [Operator.NOT_IN, Operator.DOES_NOT_EXIST])
def test_what_is_asked_of_labels_does_not_grow_with_the_requirements(operator: Operator) -> None:
    values = ("x",) if operator is Operator.NOT_IN else ()
    labels = Labels(app="web")
    keys = sorted(f"key-{number}" for number in range(10_000))
    assert Selector(tuple(Requirement(key, operator, values) for key in keys)).matches(labels)
    assert labels.looked_up < 10
