"""What a node's kernel holds of the agent's, so that two states can be compared."""

from __future__ import annotations

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.variant import MODES
from agent.net import Family
from tests.lab.backends import IPTABLES, Held, differences
from tests.lab.cluster import AgentProcess, wait_until
from tests.lab.node import Mode, Node
from tests.patience import PATIENCE

_CACHED = {f"set {names.cache(mode, family).entries}" for mode in MODES for family in Family}

_SHOWN, _SHOWN_LETTERS = 5, 400


def held(node: Node, mode: Mode | None = None) -> Held:
    """Return the chains, rules, sets and members of the agent on a node, for ``mode`` if not the node's own.

    What the verdict cache holds is left out: it is what packets have put there.
    """
    with node.netns.entered():
        found = IPTABLES[mode or node.mode].held()
    return {what: content for what, content in found.items() if what not in _CACHED}


def settled(agent: AgentProcess, timeout: float = PATIENCE) -> Held:
    """Return what the kernel of an agent's node holds once nothing is left to do. Raises TimeoutError.

    That is when isolated pods, of which there has to be one, are also judged by their links, which is written
    last, one family after the other, and when nothing has changed for a second.
    """
    last = held(agent.node)

    def same() -> bool:
        nonlocal last
        before, last = last, held(agent.node)
        linked = all(
            any(what.startswith(f"IPv{int(family)} {names.LINKS_PREFIX}") for what in last)
            for family in Family
        )
        return before == last and linked and not agent.status()["kernel"]["retry_pending"]

    wait_until(same, timeout, interval=1.0)
    return last


def wait_for(node: Node, expected: Held, timeout: float = PATIENCE) -> None:
    """Wait until a kernel holds what is expected. Raises AssertionError with the differences."""
    try:
        wait_until(lambda: held(node) == expected, timeout, interval=0.2)
    except TimeoutError:
        found = differences(held(node), expected)
        told = "".join(f"\n    {difference[:_SHOWN_LETTERS]}" for difference in found[:_SHOWN])
        text = f"the kernel holds something else than after a first start, in {len(found)} places:{told}"
        raise AssertionError(text) from None
