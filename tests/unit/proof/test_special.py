"""Rules about packets that no policy knows: those of the agent, and what only looks like them."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import cut, names
from agent.proof.lines import line
from agent.proof.special import is_ours

BIT = "-m connmark --mark 0x10000/0x10000"
OTHERS = "-m addrtype ! --src-type LOCAL"


def test_what_the_agent_writes_for_connections_that_are_cut_is_its_own() -> None:
    options = Options(cut=True)
    (forwarded,), (_, sent) = cut.forward(options), cut.output(options)
    assert is_ours(line(forwarded), names.FORWARD)
    assert is_ours(line(sent), names.OUTPUT)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (f"{BIT} {OTHERS} -g {names.CUT_OUT}", True),
        (f"{OTHERS} -g {names.CUT_OUT}", False),
        (f"{BIT} -m addrtype --src-type LOCAL -g {names.CUT_OUT}", False),
        (f"{BIT} {OTHERS} -p tcp -g {names.CUT_OUT}", False),
        (f"-m connmark ! --mark 0x10000/0x10000 {OTHERS} -g {names.CUT_OUT}", False),
        (f"-m connmark --mark 0x0/0x10000 {OTHERS} -g {names.CUT_OUT}", False),
        (f"{BIT} {OTHERS} -j DROP", False),
    ],
)
def test_a_rule_that_asks_for_something_else_is_not(text: str, ours: bool) -> None:
    assert is_ours(line(text), names.OUTPUT) is ours
