"""Whose link an interface is: claims, routes and who had it first."""

from __future__ import annotations

import pytest

from agent.dataplane.podlinks import HeldAddress, Inside, Veth, resolve
from agent.kube.model import Key

A, B, C = (Key("x", name) for name in "abc")
ADDRESS = {A: b"\x0a\0\0\1", B: b"\x0a\0\0\2", C: b"\x0a\0\0\3"}
OWNERS = {address: pod for pod, address in ADDRESS.items()}
BRIDGED = {index: Veth(f"veth{index}", 2, index + 100, 50) for index in (1, 2, 3)}
ROUTED = {index: veth._replace(bridge=0) for index, veth in BRIDGED.items()}


def inside(**claims: tuple[Key, ...]) -> Inside:
    """Return what is behind ``veth1`` and so on: the addresses of pods."""
    return {
        int(name.removeprefix("veth")) + 100: {1: frozenset(), 2: frozenset(ADDRESS[pod] for pod in pods)}
        for name, pods in claims.items()
    }


@pytest.mark.parametrize(
    ("behind", "found", "unclear"),
    [
        (inside(veth1=(A,), veth2=(B,), veth3=(C,)), {1: A, 2: B, 3: C}, {}),
        (inside(veth1=(A,), veth2=()), {1: A}, {}),
        # One adds another's address.
        (inside(veth1=(A, B), veth2=(B,)), {1: A, 2: B}, {}),
        (inside(veth1=(A, B, C), veth2=(B, C), veth3=(C,)), {1: A, 2: B, 3: C}, {}),
        (inside(veth1=(A, B), veth2=(A, B)), {}, {1: {A, B}, 2: {A, B}}),
        # One has another's in place of its own.
        (inside(veth1=(B,), veth2=(B,), veth3=(C,)), {3: C}, {1: {B}, 2: {B}}),
        # One claims a pod that has no link.
        (inside(veth1=(A, B)), {}, {1: {A, B}}),
    ],
)
def test_a_link_is_a_pods_that_claims_it_alone(
    behind: Inside, found: dict[int, Key], unclear: dict[int, set[Key]]
) -> None:
    assert resolve(BRIDGED, behind, {}, OWNERS, {}) == (found, unclear)


@pytest.mark.parametrize("claims", [(B,), (A, B), (B, C), ()])
def test_a_link_stays_whose_it_was(claims: tuple[Key, ...]) -> None:
    held = {
        (1, "veth1"): HeldAddress(A, frozenset({ADDRESS[A]})),
        (2, "veth2"): HeldAddress(B, frozenset({ADDRESS[B]})),
    }
    behind = inside(veth1=claims, veth2=(B,))
    assert resolve(BRIDGED, behind, {}, OWNERS, held)[0] == {1: A, 2: B}


def test_a_link_is_not_remembered_under_another_name_or_for_an_address_that_is_anothers() -> None:
    held = {(1, "veth1"): HeldAddress(A, frozenset({ADDRESS[A]}))}
    assert resolve({1: BRIDGED[1]._replace(name="new")}, {}, {}, OWNERS, held) == ({}, {})
    assert resolve(BRIDGED, {}, {}, {ADDRESS[A]: B}, held) == ({}, {})
    assert resolve({}, {}, {}, OWNERS, held) == ({}, {})


def test_a_route_is_above_every_claim() -> None:
    routes = {ADDRESS[A]: {1}, ADDRESS[B]: {2}}
    behind = inside(veth1=(B,), veth2=(A,), veth3=(A, B))
    held = {(1, "veth1"): HeldAddress(B, frozenset({ADDRESS[B]}))}
    assert resolve(ROUTED, behind, routes, OWNERS, held) == ({1: A, 2: B}, {3: {A, B}})


def test_a_link_that_several_pods_are_routed_to_is_nobodys() -> None:
    """One forwards for the others: to close its link to what is not its own would cut them off."""
    routes = {ADDRESS[A]: {1}, ADDRESS[B]: {1}}
    assert resolve(ROUTED, inside(veth1=(A,)), routes, OWNERS, {}) == ({}, {})


def test_of_several_links_into_one_namespace_the_one_with_the_address_is_meant() -> None:
    """A second network of a pod is none that a policy is about."""
    veths = {1: BRIDGED[1], 2: Veth("net1", 3, 101, 50)}
    behind = {101: {2: frozenset({ADDRESS[A]}), 3: frozenset({b"\xc0\0\2\1"})}}
    assert resolve(veths, behind, {}, OWNERS, {}) == ({1: A}, {})


def test_an_address_that_is_moved_inside_still_names_the_only_link() -> None:
    behind = {101: {1: frozenset({ADDRESS[A]}), 2: frozenset()}}
    assert resolve({1: BRIDGED[1]}, behind, {}, OWNERS, {}) == ({1: A}, {})
