"""Blocks of a cluster taken apart: those that nobody can tell apart are one group."""

from __future__ import annotations

from agent.kube.model import IPBlock, Key, NetworkPolicy, Peer, Port, Rule
from agent.net import Direction, Protocol
from agent.reach.admits import admits
from agent.reach.known import know
from agent.spec.cluster import cluster_of
from tests.build import block, packed, pod

MANY = tuple(block(f"192.0.{n >> 8}.{n & 255}/32") for n in range(0, 600, 2))
"""With gaps between them: each begins and ends something."""
WEB, DB = 80, 5432
POD = Key("shop", "a")


def _rule(blocks: tuple[IPBlock, ...], port: int) -> Rule:
    return Rule(tuple(Peer(block=one) for one in blocks), (Port(Protocol.TCP, port),))


def _policy(name: str, *rules: Rule) -> NetworkPolicy:
    return NetworkPolicy("shop", name, ingress=rules)


def test_blocks_that_rules_name_together_are_one_group() -> None:
    first, last = MANY[0], MANY[-1]
    policies = (_policy("web", _rule(MANY, WEB), _rule((last,), DB)), _policy("db", _rule(MANY, DB)))
    known = know(cluster_of([pod("a", "10.0.0.1"), *policies]))
    assert known.groups == (MANY[:-1], (last,))
    assert tuple(known.blocks) == MANY
    assert known.of_block[first] == known.of_block[MANY[1]] != known.of_block[last]
    # The pod, what is in each group, and all else of each family.
    assert len(known.parts) == 5


def test_blocks_that_are_to_be_told_apart_are_alone() -> None:
    known = know(cluster_of([pod("a", "10.0.0.1"), _policy("web", _rule(MANY, WEB))]), MANY[1:3])
    assert sorted(map(len, known.groups)) == [1, 1, len(MANY) - 2]
    assert known.of_block[MANY[1]] != known.of_block[MANY[2]]


def test_each_block_of_a_group_admits_what_its_rules_allow() -> None:
    hole = block("198.51.100.0/24", "198.51.100.8/29")
    cluster = cluster_of(
        [pod("a", "10.0.0.1"), _policy("web", _rule((*MANY, hole), WEB), _rule((hole,), DB))]
    )
    taken = admits(know(cluster), POD, Direction.INGRESS)
    for peer, ports in (
        ("192.0.0.0", {WEB}),
        ("192.0.0.1", set()),
        ("192.0.2.86", {WEB}),
        ("192.0.2.87", set()),
        ("198.51.100.7", {WEB, DB}),
        ("198.51.100.8", set()),
        ("198.51.100.16", {WEB, DB}),
    ):
        assert {port for port in (WEB, DB) if taken.has(packed(peer), Protocol.TCP, port)} == ports, peer
