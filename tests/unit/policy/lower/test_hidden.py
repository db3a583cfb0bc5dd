"""Sets that no program has any more: which addresses were in them before the step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.net import AddressPort, Member, Protocol, member_address
from agent.policy.lower.sets import Hidden

ADDRESSES = [bytes((10, 0, 0, number)) for number in range(6)]
PORTS = [AddressPort(address, Protocol.TCP, number) for address in ADDRESSES for number in (80, 81)]


@given(st.booleans(), st.data())
def test_it_had_those_that_were_in_it_before_the_step(ports: bool, data: st.DataObject) -> None:
    all_members: list[Member] = [*PORTS] if ports else [*ADDRESSES]
    before = data.draw(st.sets(st.sampled_from(all_members)))
    now = data.draw(st.sets(st.sampled_from(all_members)))
    # What the step touched and left as it was, too.
    untouched = data.draw(st.sets(st.sampled_from(all_members))) - (before ^ now)
    touched = {member: member in before for member in all_members if member not in untouched}
    asked = data.draw(st.sets(st.sampled_from(ADDRESSES)))
    wanted = {member_address(member) for member in before} & asked
    assert Hidden(now, touched, ports).had(asked) == wanted
