"""What a policy costs follows what it says, not a product of it: counted in sets, members and networks."""

from __future__ import annotations

import pytest

from agent.kube.model import (
    IPBlock,
    Namespace,
    NetworkPolicy,
    Operator,
    Peer,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import AddressPort, Direction, Family, Network, NetworkMember, Protocol
from agent.policy.compile import compile_policy
from agent.policy.engine import Engine
from agent.policy.graph import Identity
from agent.policy.lower.blocks import Parts, block_covers, block_members, block_ranges, members_text
from agent.policy.lower.cost import MANY_PEERS
from agent.policy.lower.live import LiveSet
from agent.policy.lower.lowered import SetKind
from agent.policy.lower.policy import BOTH, lower_in_parts, lower_policy
from tests.build import block, labelled, lowered, network, pod, port, upsert


def excepts(count: int) -> tuple[Network, ...]:
    """Return single addresses of IPv6, none beside another: each takes 128 networks to be told around."""
    return tuple(Network((0x20010DB8 << 96 | n << 8 | 1).to_bytes(16), 128) for n in range(count))


def names(count: int) -> tuple[Port, ...]:
    return tuple(Port(Protocol.TCP, f"port-{n}") for n in range(count))


@pytest.mark.parametrize(("blocks", "ports"), [(20, 100), (40, 400), (1000, 1000)])
def test_excepts_and_named_ports_make_no_product(blocks: int, ports: int) -> None:
    rule = Rule((Peer(block=IPBlock(network("::/0"), excepts(blocks))),), names(ports))
    compiled = lowered(NetworkPolicy("shop", "big", egress=(rule,)), Direction.EGRESS)
    assert compiled is not None
    (set_id,) = compiled.sets
    assert len(set_id.meaning) < 400
    (found,) = compiled.policy.v6
    assert found.folded == (set_id,)


@pytest.mark.parametrize("count", [1, 100, 30_000])
def test_each_except_is_one_member(count: int) -> None:
    one = IPBlock(network("::/0"), excepts(count))
    members = block_members([one], Family.V6)
    assert len(members) == count + 2
    assert sum(member.nomatch for member in members) == count
    assert block_covers([one], Family.V6) == (network("::/1"), network("8000::/1"))
    assert len(members_text(members)) < 600


def test_several_blocks_with_many_excepts_have_no_more_members_than_they_name() -> None:
    own = excepts(500)
    blocks = [IPBlock(network("2001:db8::/32"), own[:250]), IPBlock(network("2001::/16"), own)]
    members = block_members(blocks, Family.V6)
    # What one excepts and the other covers is allowed.
    assert len([member for member in members if member.nomatch]) == 250
    assert len(members) <= 502
    apart = [IPBlock(network("2001:db8::/32"), own), block("fd00::/8", "fd00:1::/64", "fd00:1:2::/64")]
    assert len(block_members(apart, Family.V6)) == 500 + 4


def test_what_one_block_excepts_and_a_smaller_one_covers_again_is_told_by_the_longest() -> None:
    blocks = [block("10.0.0.0/8", *(f"10.{n}.0.0/24" for n in range(0, 100, 2))), block("10.4.0.7/32")]
    members = block_members(blocks, Family.V4)
    assert NetworkMember(network("10.4.0.0/24"), True) in members
    assert NetworkMember(network("10.4.0.7/32")) in members
    assert len(members) == 52


def test_many_excepts_of_a_whole_family_leave_out_its_half() -> None:
    inner = tuple(f"{n}.0.0.1/32" for n in range(1, 100))
    blocks = [block("0.0.0.0/0", "128.0.0.0/1", *inner), block("0.0.0.0/0", "128.0.0.0/1", "5.0.0.1/32")]
    assert members_text(block_members(blocks, Family.V4)) == "0.0.0.0/1,!5.0.0.1/32"


def test_ranges_are_made_of_what_the_blocks_leave() -> None:
    found = block_ranges([IPBlock(network("::/0"), excepts(30_000))], Family.V6)
    assert len(found) == 30_001


BLOCKS = tuple(
    IPBlock(Network((n << 16).to_bytes(4), 16), (Network((n << 16 | 9).to_bytes(4), 32),))
    for n in range(5_950)
)
SPREAD = tuple(Rule(tuple(Peer(block=one) for one in BLOCKS[n : n + 500])) for n in range(0, 5_950, 500))


@pytest.mark.parametrize(
    ("rules", "fewest"),
    [
        ((Rule((Peer(block=IPBlock(network("::/0"), excepts(11_900))),)),), 2),
        ((Rule(tuple(Peer(block=one) for one in BLOCKS)),), 5),
        ((Rule(tuple(Peer(block=one) for one in BLOCKS), (Port(Protocol.TCP, "http"),)),), 1),
        ((Rule(tuple(Peer(block=one) for one in BLOCKS), (*names(1), Port(Protocol.TCP, 80))),), 6),
        (SPREAD, 5),
    ],
    ids=["excepts of a block", "excepts of blocks", "for named ports alone", "for named ports", "many rules"],
)
def test_many_networks_are_lowered_in_parts_as_they_are_at_once(rules: tuple[Rule, ...], fewest: int) -> None:
    program = compile_policy(NetworkPolicy("shop", "big", egress=rules), Direction.EGRESS)
    assert program is not None
    found = []

    def lowering() -> Parts[None]:
        found.append((yield from lower_in_parts(program, Direction.EGRESS, BOTH)))

    assert len(list(lowering())) >= fewest
    assert found == [lower_policy(program, Direction.EGRESS)]


def test_many_peers_of_a_rule_share_one_set_in_each_family() -> None:
    peers = tuple(Peer(labelled(app=f"app-{n}")) for n in range(2000))
    numbers = tuple(Port(Protocol.TCP, 2 * n + 1) for n in range(2000))
    policy = NetworkPolicy("shop", "many", ingress=(Rule(peers, (*numbers, *names(500))),))
    compiled = lowered(policy, Direction.INGRESS)
    assert compiled is not None
    for family in Family:
        kinds = sorted(set_id.kind for set_id in compiled.sets if set_id.family is family)
        assert kinds == [SetKind.ADDRESS_PORTS, SetKind.ADDRESSES]
    assert max(len(set_id.meaning) for set_id in compiled.sets) < 500


def test_few_peers_have_sets_that_rules_share() -> None:
    peers = tuple(Peer(labelled(app=f"app-{n}")) for n in range(MANY_PEERS))
    one = NetworkPolicy("shop", "one", ingress=(Rule(peers),))
    other = NetworkPolicy("shop", "other", ingress=(Rule(peers[:1]), Rule(peers[1:])))
    found = [lowered(policy, Direction.INGRESS) for policy in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].sets.keys() == found[1].sets.keys()


def test_a_shared_set_has_a_pod_as_long_as_any_of_its_peers_means_it() -> None:
    peers = (
        *(Peer(labelled(**{f"key{n}": "yes"})) for n in range(MANY_PEERS)),
        Peer(None, labelled(team="a")),
    )
    policy = NetworkPolicy("shop", "p", ingress=(Rule(peers),))
    engine = Engine("here")
    engine.apply(upsert(Namespace("shop"), policy, pod("db", "10.0.0.1", "fd00::1")), 0.0)

    def members() -> set[object]:
        return {member for held in engine.lowered.sets.values() for member in held}

    engine.apply(upsert(pod("a", "10.0.0.2", "fd00::2", node="there", key1="yes", key2="yes")), 0.0)
    assert len(members()) == 2
    assert not engine.apply(upsert(pod("a", "10.0.0.2", "fd00::2", node="there", key2="yes")), 0.0).members
    engine.apply(upsert(Namespace("shop", {"team": "a"})), 0.0)
    assert len(members()) == 4
    engine.apply(upsert(Namespace("shop", {"team": "b"})), 0.0)
    assert members() == set(pod("a", "10.0.0.2", "fd00::2").addresses)
    engine.apply(upsert(pod("a", "10.0.0.2", "fd00::2", node="there", app="a")), 0.0)
    assert not members()


def test_a_pod_with_several_of_the_names_has_a_member_for_each() -> None:
    policy = NetworkPolicy("shop", "p", egress=(Rule((Peer(Selector()),), names(3)),))
    engine = Engine("here")
    peer = pod("a", "10.0.0.2", node="there", ports=(port("port-0", 80), port("port-2", 82), port("else", 9)))
    engine.apply(upsert(policy, pod("db", "10.0.0.1"), peer), 0.0)
    members = [member for held in engine.lowered.sets.values() for member in held]
    assert {member.port for member in members if isinstance(member, AddressPort)} == {80, 82}


def test_a_relabelled_namespace_has_each_pod_asked_for_once_by_a_set_of_many_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them end to mean its pods together; another policy's peers, as many, go on meaning them."""
    team = labelled(team="a")
    anyone = [Selector((Requirement(f"key{n}", Operator.DOES_NOT_EXIST),)) for n in range(200)]
    left = NetworkPolicy("shop", "left", ingress=(Rule(tuple(Peer(one, team) for one in anyone)),))
    stays = NetworkPolicy("shop", "stays", ingress=(Rule(tuple(Peer(one) for one in anyone)),))
    pods = [pod(f"web-{n}", f"10.0.0.{n}", app=f"web-{n}") for n in range(5)]
    engine = Engine("here")
    engine.apply(upsert(Namespace("shop", {"team": "a"}), left, stays, *pods), 0.0)
    asked = []
    wants = LiveSet.wants

    def counted(live: LiveSet, group: Identity) -> bool:
        asked.append(group)
        return wants(live, group)

    monkeypatch.setattr(LiveSet, "wants", counted)
    moved = engine.apply(upsert(Namespace("shop", {"team": "b"})), 0.0).members
    assert [len(found.removed) for found in moved.values()] == [5]
    assert len(asked) == len(pods)
    moved = engine.apply(upsert(Namespace("shop", {"team": "a"})), 0.0).members
    assert [len(found.added) for found in moved.values()] == [5]
