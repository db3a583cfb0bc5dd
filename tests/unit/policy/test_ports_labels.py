"""The algebra below the rules: ports, labels, and the text of selectors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.kube.model import Operator, Port, Requirement, Selector
from agent.net import Protocol
from agent.policy.peers.labels import LabelIndex, Multimap, SelectorIndex, selector_text
from agent.policy.ports import compile_ports
from agent.policy.program import PortName, PortRange
from tests.build import labelled


def test_ports_merge_within_a_protocol_only() -> None:
    tcp, udp = Protocol.TCP, Protocol.UDP
    found = compile_ports(
        [
            Port(tcp, 90),
            Port(tcp, 80, 89),
            Port(udp, 91),
            Port(tcp, "dns"),
            Port(tcp, "dns"),
            Port(tcp, 85, 95),
        ]
    )
    assert found.ranges == (PortRange(tcp, 80, 95), PortRange(udp, 91, 91))
    assert found.names == (PortName("dns", tcp),)


def test_a_port_without_number_is_every_port_of_its_protocol() -> None:
    assert compile_ports([Port(Protocol.SCTP), Port(Protocol.SCTP, 9)]).ranges == (
        PortRange(Protocol.SCTP, 0, 65535),
    )


def test_selectors_that_differ_have_different_texts() -> None:
    requirements = [
        Requirement("a", Operator.IN, ("b",)),
        Requirement("a=b", Operator.EXISTS),
        Requirement("a", Operator.IN, ("b", "c")),
        Requirement("a", Operator.IN, ("b,c",)),
        Requirement("a", Operator.IN, ("b,c", "d")),
        Requirement("a", Operator.NOT_IN, ("b", "c")),
        Requirement("a", Operator.IN, ("",)),
        Requirement("a", Operator.EXISTS),
        Requirement("a", Operator.DOES_NOT_EXIST),
        Requirement("!a", Operator.EXISTS),
        Requirement("*", Operator.EXISTS),
    ]
    selectors = [Selector(), *(Selector((r,)) for r in requirements), Selector(tuple(requirements[:2]))]
    assert len({selector_text(selector) for selector in selectors}) == len(selectors)
    assert selector_text(labelled(app="web", tier="db")) == "app=web,tier=db"


def test_indexes_offer_all_that_may_match_and_forget_what_is_removed() -> None:
    things: LabelIndex[str] = LabelIndex()
    things.add({"app": "a"}, "one")
    things.add({"app": "b", "x": ""}, "two")
    found = things.candidates(Selector((Requirement("app", Operator.EXISTS),)))
    assert found is not None
    assert set(found.things) == {"one", "two"}
    assert things.candidates(Selector((Requirement("app", Operator.NOT_IN, ("a",)),))) is None
    selectors: SelectorIndex[str] = SelectorIndex()
    many = Selector((Requirement("app", Operator.IN, tuple(map(str, range(20)))),))
    for selector, name in ((Selector(), "all"), (labelled(app="a"), "a"), (many, "many")):
        selectors.add(selector, name)
    assert sorted(selectors.candidates({"app": "a"})) == ["a", "all", "many"]
    assert selectors.candidates({}) == ["all"]
    for selector, name in ((Selector(), "all"), (labelled(app="a"), "a"), (many, "many")):
        selectors.remove(selector, name)
    things.remove({"app": "a"}, "one")
    things.remove({"app": "b", "x": ""}, "two")
    assert len(selectors) == len(things) == 0


_some_labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"))
_requirements = st.builds(
    Requirement,
    st.sampled_from("abc"),
    st.sampled_from(Operator),
    st.sampled_from((("x",), ("y",), ("z",), ("x", "y"))),
)


@given(st.lists(_some_labels, max_size=12), st.sets(st.integers(0, 11)), st.lists(_requirements, max_size=3))
def test_what_may_match_among_some_things_has_all_that_do(
    labels: list[dict[str, str]], some: set[int], requirements: list[Requirement]
) -> None:
    selector = Selector(tuple(requirements))
    index: LabelIndex[int] = LabelIndex()
    among: Multimap[str, int] = Multimap()
    for number, own in enumerate(labels):
        index.add(own, number)
        if number in some:
            among.add("these", number)
    found = list(index.within(selector, among.get("these")))
    assert len(found) == len(set(found))
    assert set(found) <= set(among.get("these"))
    assert {n for n in among.get("these") if selector.matches(labels[n])} <= set(found)


def test_a_multimap_holds_each_pair_once() -> None:
    found: Multimap[str, int] = Multimap()
    for value in (1, 1, 2, 3, 3):
        found.add("k", value)
    assert sorted(found.get("k")) == [1, 2, 3]
    assert found.total == 3
    for value in (1, 2, 2, 9, 3, 3):
        found.remove("k", value)
    assert (len(found), found.total, tuple(found.get("k"))) == (0, 0, ())
