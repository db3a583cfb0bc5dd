"""Areas and atoms as the sets that they are."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.net import Family, NetworkMember, Protocol
from agent.proof import area
from agent.proof.area import Area
from agent.proof.atoms import Atoms, covered
from agent.reach import intervals, ports
from agent.reach.addresses import number_of
from agent.reach.known import know
from agent.reach.ports import Ports
from agent.spec.cluster import cluster_of
from tests.build import network, packed, pod

_ATOMS, _LAST = 6, 5


def _random_ports(random: Random) -> Ports:
    first = random.randint(0, _LAST)
    return ports.ports(Protocol.TCP, first, random.randint(first, _LAST))


def _random_area(random: Random) -> Area:
    parts: list[Area] = [{_random_ports(random): random.getrandbits(_ATOMS) or 1} for _ in range(3)]
    return area.union(parts)


def _points(given: Area) -> set[tuple[int, int]]:
    return {
        (atom, port)
        for some, mask in given.items()
        for atom in range(_ATOMS)
        for port in range(_LAST + 1)
        if mask >> atom & 1 and some.has(Protocol.TCP, port)
    }


def test_areas_are_sets_of_atoms_and_ports() -> None:
    random = Random(7)
    for _ in range(300):
        one, other = _random_area(random), _random_area(random)
        for found, expected in (
            (area.merged(one, other), _points(one) | _points(other)),
            (area.common(one, other), _points(one) & _points(other)),
            (area.without(one, other), _points(one) - _points(other)),
        ):
            assert _points(found) == expected
            masks = list(found.values())
            assert sum(mask.bit_count() for mask in masks) == _or(masks).bit_count()
        assert (area.merged(one, other) == area.merged(other, one)) is True
        assert (one == other) == (_points(one) == _points(other))


def _or(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


def _nets(*texts: str) -> SetContent:
    members = {NetworkMember(network(text.removesuffix(" no")), text.endswith(" no")) for text in texts}
    return SetContent(SetShape("hash:net", Family.V4), set(members))


def test_of_networks_the_longest_prefix_decides() -> None:
    found = covered(_nets("10.0.0.0/8", "10.1.0.0/16 no", "10.1.2.0/24", "10.1.2.128/25 no", "10.9.0.0/16"))
    for text, inside in (
        ("9.255.255.255", False),
        ("10.0.0.0", True),
        ("10.1.0.0", False),
        ("10.1.2.0", True),
        ("10.1.2.127", True),
        ("10.1.2.128", False),
        ("10.1.3.0", False),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
    ):
        assert intervals.holds(found, number_of(packed(text))) is inside, text
    assert covered(_nets("0.0.0.0/1", "128.0.0.0/1")) == ((0, 1 << 32),)
    assert covered(_nets("10.0.0.0/8 no")) == ()


def test_atoms_tell_apart_what_sets_networks_and_pods_do() -> None:
    known = know(cluster_of([pod("a", "10.0.0.1"), pod("b", "10.0.0.2", app="b")]))
    addresses = SetContent(SetShape("hash:ip", Family.V4), {packed("10.0.0.1"), packed("10.0.0.9")})
    atoms = Atoms(Family.V4, {"s": addresses, "n": _nets("10.0.0.0/30")}, [network("10.0.0.0/24")], known)
    at = {
        text: atoms.at(number_of(packed(text))) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9")
    }
    at |= {text: atoms.at(number_of(packed(text))) for text in ("10.0.0.10", "10.1.0.0", "0.0.0.0")}
    assert at["10.1.0.0"] == at["0.0.0.0"]
    assert len(set(at.values())) == len(at) - 1
    assert atoms.of_set["s"] == 1 << at["10.0.0.1"] | 1 << at["10.0.0.9"]
    assert atoms.places(atoms.of_set["n"]) == (
        (number_of(packed("10.0.0.0")), number_of(packed("10.0.0.4"))),
    )
    every = atoms.places(atoms.every)
    assert every == ((0, 1 << 32),)
