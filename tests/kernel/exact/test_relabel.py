"""The map from random addresses to the arena's keeps what policies can tell of addresses."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.kube.model import Pod, Rule
from agent.net import Network
from tests.build import packed
from tests.kernel.exact.relabel import IMAGES, common_prefix, image, relabelled
from tests.property.clusters import RandomCluster, clusters


def test_addresses_share_as_many_bits_as_before() -> None:
    for (one, its), (other, others) in itertools.combinations(IMAGES, 2):
        if len(one) == len(other):
            assert common_prefix(one, other) == common_prefix(its, others)


@given(*(st.one_of(st.binary(min_size=4, max_size=4), st.sampled_from([a for a, _ in IMAGES][:11])),) * 2)
def test_so_does_every_other_address(one: bytes, other: bytes) -> None:
    assert common_prefix(image(one), image(other)) == common_prefix(one, other)


def test_an_address_that_has_an_image_gets_it() -> None:
    assert image(packed("10.0.0.128")) == packed("10.244.1.128")
    assert all(image(address) == its for address, its in IMAGES)


@given(clusters())
def test_blocks_hold_the_images_of_what_they_held(cluster: RandomCluster) -> None:
    pods = [pod for pod in cluster.objects if isinstance(pod, Pod)]
    turned = RandomCluster(relabelled(cluster.objects))
    for policy, other in zip(cluster.policies, turned.policies, strict=True):
        for rule, its in zip(_rules(policy.ingress), _rules(other.ingress), strict=True):
            for peer, image_of in zip(rule.peers, its.peers, strict=True):
                if peer.block is None or image_of.block is None:
                    assert peer == image_of
                    continue
                for address in (a for pod in pods for a in pod.addresses):
                    if len(address) == len(peer.block.cidr.address):
                        held = _holds(peer.block.cidr, address)
                        assert held == _holds(image_of.block.cidr, image(address))


def _rules(side: tuple[Rule, ...] | None) -> tuple[Rule, ...]:
    return side or ()


def _holds(network: Network, address: bytes) -> bool:
    return common_prefix(network.address, address) >= network.prefix
