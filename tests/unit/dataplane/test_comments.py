"""What a rule's comment says of it is read again from the text that iptables prints."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.rules import comments, names
from agent.kube.model import Key
from agent.net import Direction
from agent.policy.program import PodId, PolicyId

LONGEST = Key("n" * 63, "p" * 253)
OBJECTS = (Key("shop", "db-0"), LONGEST)


@pytest.mark.parametrize("direction", Direction)
def test_of_rule_is_read_again(direction: Direction) -> None:
    policy = PolicyId(direction, Key("shop", "admit.web"))
    text = f"-s 10.0.0.1/32 {comments.of_rule(policy, 12)} -g {names.allow(direction)}"
    assert comments.read_of_rule(text) == (12, direction, "shop", "admit.web")


def test_a_long_name_ends_with_a_hash_and_its_namespace_is_whole() -> None:
    read = comments.read_of_rule(comments.of_rule(PolicyId(Direction.INGRESS, LONGEST), 12))
    assert read is not None
    assert read.namespace == LONGEST.namespace
    assert read.name != LONGEST.name
    assert read.name[-9] == "~"


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("pod", OBJECTS)
def test_who_denies_is_read_again(direction: Direction, pod: Key) -> None:
    comment = comments.denies(PodId(direction, pod))
    assert comments.DENIES in comment
    read = comments.read_denies(f"{comment} -g {names.DENY}")
    assert read is not None
    assert read[:2] == (direction, pod.namespace)
    assert read.pod == pod.name or len(pod.name) > 200


@pytest.mark.parametrize("pod", OBJECTS)
def test_a_wrong_link_is_read_again(pod: Key) -> None:
    assert comments.read_wrong_link(comments.wrong_link(pod)) == pod.namespace


def test_each_reader_knows_its_own_comment_alone() -> None:
    pod, policy = OBJECTS[0], PolicyId(Direction.EGRESS, OBJECTS[0])
    texts = (comments.of_rule(policy, 0), comments.denies(PodId(*policy)), comments.wrong_link(pod))
    readers = (comments.read_of_rule, comments.read_denies, comments.read_wrong_link)
    assert [[read(text) is not None for text in texts] for read in readers] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
