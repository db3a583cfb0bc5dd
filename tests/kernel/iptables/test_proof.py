"""The kernel held against the policies for every packet at once: what is broken in it is found."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.variant import MODES, Mode
from tests.kernel.proved import BREAKS, ProvedNode

pytestmark = pytest.mark.usefixtures("netns", "lock_file")


@pytest.mark.guarantee("7.2")
@pytest.mark.parametrize("mode", MODES[:1])
def test_each_break_of_the_kernel_is_found(mode: Mode) -> None:
    node = ProvedNode(mode)
    assert node.prove().differences == ()
    missed = []
    for one in BREAKS:
        one.make(node)
        found = node.prove().differences
        if not any(one.said in difference.said for difference in found):
            missed.append((one.name, [d.said for d in found[:3]]))
        node.mend()
    assert missed == []
    assert node.prove().differences == ()
