"""When a change must be made at once: each case that its module names, and what is none."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.change.atomicity import hazardous
from agent.kube.model import Key
from agent.net import AddressPort, Direction, Family, Member, Network, NetworkMember, Protocol
from agent.policy.lower.lowered import Delta, Membership, SetId, SetKind
from agent.policy.program import PodId, PolicyId

IN, OUT = Direction.INGRESS, Direction.EGRESS
A, B, C = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
A6 = b"\xfd" + bytes(14) + b"\1"
P = Key("ns", "p")
EACH_WAY = pytest.mark.parametrize(("gaining", "losing"), [(IN, OUT), (OUT, IN)])


def peers(direction: Direction, name: str = "x") -> SetId:
    return SetId(SetKind.ADDRESSES, direction, Family.V4, name)


def moved(**changes: object) -> Delta:
    return Delta(**changes)  # type: ignore[arg-type]


def change(added: set[Member] = frozenset(), removed: set[Member] = frozenset()) -> Membership:  # type: ignore[assignment]
    return Membership(set(added), set(removed))


def pod_id(direction: Direction, name: str = "a") -> PodId:
    return PodId(direction, Key("ns", name))


def none(delta: Delta) -> bool:
    return hazardous(delta, {}, {}, [])


def test_an_empty_change_and_one_of_members_alone_are_none() -> None:
    assert not none(Delta())
    for direction in Direction:
        assert not none(Delta(members={peers(direction): change({A}, {B})}, local={A, B}))


@EACH_WAY
def test_one_direction_gains_what_the_other_loses_between_local_pods(
    gaining: Direction, losing: Direction
) -> None:
    members = {peers(gaining): change(added={A}), peers(losing): change(removed={B})}
    assert none(Delta(members=members, local={A, B}))
    assert not none(Delta(members=members, local={A}))
    assert not none(Delta(members=members, local=set()))


@EACH_WAY
def test_one_address_alone_sends_itself_nothing(gaining: Direction, losing: Direction) -> None:
    members = {peers(gaining): change(added={A}), peers(losing): change(removed={A})}
    assert not none(Delta(members=members, local={A}))


@EACH_WAY
def test_addresses_of_two_families_never_meet(gaining: Direction, losing: Direction) -> None:
    members = {peers(gaining): change(added={A6}), peers(losing): change(removed={B})}
    assert not none(Delta(members=members, local={A6, B}))


@EACH_WAY
def test_named_ports_count_by_their_address(gaining: Direction, losing: Direction) -> None:
    ports = SetId(SetKind.ADDRESS_PORTS, gaining, Family.V4, "port")
    members = {ports: change(added={AddressPort(A, Protocol.TCP, 80)}), peers(losing): change(removed={B})}
    assert none(Delta(members=members, local={A, B}))


@EACH_WAY
def test_what_a_released_address_loses_is_lost_before_all_else(gaining: Direction, losing: Direction) -> None:
    members = {peers(gaining): change(added={A}), peers(losing): change(removed={B})}
    assert not none(Delta(members=members, local={A, B}, released={B}))


@pytest.mark.parametrize("direction", Direction)
def test_rules_of_one_direction_and_members_of_the_other(direction: Direction) -> None:
    other = OUT if direction is IN else IN
    delta = Delta(policies={PolicyId(direction, P)}, members={peers(other): change(removed={B})}, local={B})
    assert hazardous(delta, {}, {}, [PolicyId(direction, P)])
    delta.local.clear()
    assert not hazardous(delta, {}, {}, [PolicyId(direction, P)])


@pytest.mark.parametrize("direction", Direction)
def test_rules_and_members_of_one_direction_together(direction: Direction) -> None:
    policy = PolicyId(direction, P)
    delta = Delta(policies={policy}, members={peers(direction): change(added={C})})
    assert hazardous(delta, {}, {}, [policy])
    assert not hazardous(delta, {}, {}, [])
    assert not hazardous(Delta(policies={policy}), {}, {}, [policy])


@pytest.mark.parametrize("direction", Direction)
def test_an_edited_policy_together_with_who_is_isolated(direction: Direction) -> None:
    policy = PolicyId(direction, P)
    for field in ("isolated", "opened"):
        sides: dict[Direction, set[bytes]] = {IN: set(), OUT: set()}
        sides[direction].add(A)
        assert hazardous(moved(policies={policy}, **{field: sides}), {}, {}, [policy])


@pytest.mark.parametrize("direction", Direction)
def test_another_chain_for_an_isolated_pod_together_with_members_that_are_not_its_own(
    direction: Direction,
) -> None:
    changed = pod_id(direction)
    for member, wanted in ((A, False), (B, True)):
        delta = Delta(pods={changed}, members={peers(direction): change(added={member})})
        assert hazardous(delta, {changed: (A,)}, {changed: (A,)}, []) is wanted
        # A pod that is isolated with it is isolated last.
        delta.isolated[direction].add(A)
        assert not hazardous(delta, {}, {changed: (A,)}, [])


@pytest.mark.parametrize("direction", Direction)
def test_a_pod_that_is_newly_isolated_finds_its_peers_there(direction: Direction) -> None:
    isolated: dict[Direction, set[bytes]] = {IN: set(), OUT: set()}
    isolated[direction].add(A)
    members = {peers(direction): change(added={B})}
    delta = Delta(policies={PolicyId(direction, P)}, members=members, isolated=isolated)
    assert none(delta)
    delta.members = {peers(direction): change(added={A})}
    assert not none(delta)


@pytest.mark.parametrize("direction", Direction)
def test_a_pod_that_opens_while_others_lose_members(direction: Direction) -> None:
    opened: dict[Direction, set[bytes]] = {IN: set(), OUT: set()}
    opened[direction].add(A)
    assert none(Delta(opened=opened, members={peers(direction): change(removed={B})}))
    assert not none(Delta(opened=opened, members={peers(direction): change(removed={A})}))


def test_networks_have_no_address() -> None:
    blocks = SetId(SetKind.NETWORKS, IN, Family.V4, "block")
    members = {blocks: change(added={NetworkMember(Network(A, 32))}), peers(OUT): change(removed={B})}
    assert not none(Delta(members=members, local={A, B}))


@pytest.mark.parametrize("direction", Direction)
def test_a_new_pod_at_a_closed_address_meets_sets_that_change(direction: Direction) -> None:
    """The address is isolated before: nothing keeps packets from the pod's chain until its sets are right."""
    new = pod_id(direction)
    delta = Delta(members={peers(direction): change(removed={B})}, pods={new}, released={A})
    assert hazardous(delta, {}, {new: (A,)}, [])
    # An address that was open is isolated last.
    delta.isolated[direction].add(A)
    assert not hazardous(delta, {}, {new: (A,)}, [])
    # A pod is no peer of its own.
    own = Delta(members={peers(direction): change(added={A})}, pods={new}, released={A})
    assert not hazardous(own, {}, {new: (A,)}, [])
