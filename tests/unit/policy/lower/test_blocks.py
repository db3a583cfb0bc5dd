"""Blocks as members of a set: shown beside what they make."""

from __future__ import annotations

import pytest

from agent.kube.model import IPBlock
from agent.net import Family
from agent.policy.lower.blocks import block_members, members_text
from tests.build import block


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([block("10.0.0.0/8")], "10.0.0.0/8"),
        ([block("0.0.0.0/0")], "0.0.0.0/1,128.0.0.0/1"),
        ([block("0.0.0.0/0", "0.0.0.0/1")], "128.0.0.0/1"),
        ([block("0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/8")], "0.0.0.0/1,!10.0.0.0/8"),
        ([block("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1")], ""),
        ([block("10.0.0.0/8", "10.1.0.0/16")], "10.0.0.0/8,!10.1.0.0/16"),
        ([block("10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/16")], "10.128.0.0/9"),
        ([block("10.0.0.0/8", "10.0.0.0/9"), block("10.0.0.0/16")], "10.0.0.0/16,10.128.0.0/9"),
        ([block("10.0.0.0/9"), block("10.128.0.0/9")], "10.0.0.0/8"),
        ([block("0.0.0.0/1"), block("128.0.0.0/1")], "0.0.0.0/1,128.0.0.0/1"),
        ([block("fd00::/8")], ""),
    ],
)
def test_blocks_become_networks_that_hold_exactly_what_they_do(blocks: list[IPBlock], expected: str) -> None:
    assert members_text(block_members(blocks, Family.V4)) == expected


def test_a_whole_v6_block_is_told_as_its_halves() -> None:
    assert members_text(block_members([block("::/0", "fd00::/8")], Family.V6)) == "::/1,8000::/1,!fd00::/8"
