"""All frames of a link at once, against frames one by one."""

from __future__ import annotations

import itertools
from random import Random

import msgspec
import pytest

from agent.dataplane import frames as written_by
from agent.dataplane.frames import table
from agent.dataplane.frames.table import TableRule
from agent.kernel import nf_write as nf
from agent.proof import frames as proved_by
from agent.proof.difference import Difference, Kind
from agent.proof.frames.prove import prove
from agent.proof.frames.reading import FrameReading
from agent.proof.given import Given
from tests.unit.proof.frames.frames import MAC_B, A, B, frames, link, passes, written

GIVEN = Given("here", "nft", (4, 6), (), (), (), frames=(A, B))
SENT = list(itertools.islice(frames(Random(7)), 6000))
WHOLE = written(table.RULES, (A, B))
RIGHT = [passes(WHOLE, data, 1) for data in SENT]


def found(reading: FrameReading, given: Given = GIVEN) -> list[Difference]:
    links, differences = prove(given, reading, None)
    assert links == 2
    return differences


def test_what_the_agent_writes_is_proved() -> None:
    assert found(WHOLE) == []
    assert 100 < sum(RIGHT) < len(RIGHT) - 100


def test_both_sides_mean_the_same_table() -> None:
    """They say so each for itself."""
    assert (proved_by.TABLE, proved_by.PRIORITY) == (written_by.TABLE, table.PRIORITY)


@pytest.mark.guarantee("7.2")
@pytest.mark.parametrize("seed", range(120))
def test_whatever_is_broken_that_a_frame_shows_is_found(seed: int) -> None:
    random = Random(seed)
    rules, what = _broken(list(table.RULES), random)
    reading = written(rules, (A, B))
    shown = next(
        (data for data, right in zip(SENT, RIGHT, strict=True) if passes(reading, data, 1) != right), None
    )
    differences = found(reading)
    assert differences or shown is None, (what, shown and shown.hex())


def _broken(rules: list[TableRule], random: Random) -> tuple[list[TableRule], str]:
    at = random.randrange(len(rules))
    rule = rules[at]
    how = random.choice(("delete", "move", "accept", "unconditional", "word", "elsewhere"))
    if how == "delete":
        del rules[at]
    elif how == "move":
        others = [n for n, other in enumerate(rules) if other.chain == rule.chain]
        del rules[at]
        rules.insert(random.choice(others), rule)
    elif how == "accept":
        rules.insert(at, rule._replace(word="accept", target=""))
    elif how == "unconditional":
        rules[at] = rule._replace(match=b"")
    elif how == "word":
        rules[at] = rule._replace(word=random.choice(("accept", "drop", "return")), target="")
    else:
        rules[at] = rule._replace(word="goto", target=random.choice(table.DENIALS))
    return rules, f"{how} {rule}"


@pytest.mark.parametrize("name", table.SETS)
@pytest.mark.parametrize("more", [True, False])
def test_an_element_more_or_less_is_found_and_names_its_pod(name: str, more: bool) -> None:
    keys = WHOLE.sets[name]
    assert keys is not None
    others = sorted(key for key in keys if key[:4] != nf.key(b"\1\0\0\0"))
    own = sorted(keys - set(others))
    changed = keys | {own[0][:4] + others[0][4:]} if more else keys - {own[0]}
    differences = found(WHOLE._replace(sets={**WHOLE.sets, name: changed}))
    assert {one.pod for one in differences} == {"x/p1"}
    assert {one.kind for one in differences} == {Kind.OPEN if more else Kind.SHUT}
    assert all(one.frames and one.rule.startswith(proved_by.TABLE) for one in differences)


def test_what_is_read_of_a_rule_in_part_is_told() -> None:
    """Whatever it does: it is not passed over."""
    rules = [TableRule(table.IP4, nf.tracked(nf.RELATED_OR_ESTABLISHED), "accept"), *table.RULES]
    assert {(one.kind, one.pod) for one in found(written(rules, (A, B)))} == {
        (Kind.UNREAD, "x/p1"),
        (Kind.UNREAD, "x/p2"),
    }


def test_a_tag_that_is_let_pass_is_found() -> None:
    rule = TableRule(table.POD, nf.payload(nf.LINK, 12, 2) + nf.compared(b"\x81\x00"), "accept")
    differences = found(written([rule, *table.RULES], (A, B)))
    assert {one.pod for one in differences} == {"x/p1", "x/p2"}
    assert all("may send tagged IPv4" in one.said for one in differences)


def test_a_frame_that_is_too_short_for_a_rule_is_found() -> None:
    """Where a rule in place of the last one asks for a part, whatever it is, what has no such part passes."""
    any_source = nf.payload(nf.NETWORK, 12, 4) + nf.masked(bytes(4)) + nf.compared(bytes(4))
    rules = [
        rule._replace(match=any_source) if (rule.chain, rule.match) == (table.IP4, b"") else rule
        for rule in table.RULES
    ]
    assert {one.kind for one in found(written(rules, (A, B)))} == {Kind.OPEN}


def test_a_part_of_a_part_is_compared_with_it() -> None:
    """As nft(8) writes a network whose prefix is whole bytes."""
    rule = TableRule(table.IP4, nf.payload(nf.NETWORK, 12, 1) + nf.compared(b"\x0b"), "accept")
    (one, other) = found(written([rule, *table.RULES], (A, B)))
    assert one.said.startswith("pod x/p1 (veth1) may send IPv4, ")
    assert one.said.endswith(
        "from 11.0.0.0, which is not its own to send: "
        "rule 1 of chain ip4 of table netdev netpol-agent-frames lets it pass"
    )
    assert other.pod == "x/p2"


def test_of_two_that_claim_an_address_who_had_it_first_has_it() -> None:
    greedy = link(2, B.sender.hardware if B.sender else b"", "10.0.0.2", near="fe80::1")
    reading = written(table.RULES, (A, B))
    held = {1: (b"\2\0\0\0\0\1", *(A.sender.near if A.sender else ()))}
    given = msgspec.structs.replace(GIVEN, frames=(A, greedy), holders=held)
    assert {one.pod for one in found(reading, given)} == {"x/p2"}
    kept = {
        name: frozenset(_without(keys or frozenset(), (b"\xfe\x80", b"\xfd\0"), 2))
        for name, keys in reading.sets.items()
    }
    assert found(reading._replace(sets=kept), given) == []
    both = {**held, 2: held[1]}
    assert found(reading._replace(sets=kept), msgspec.structs.replace(given, holders=both)) != []


def _without(keys: frozenset[bytes], starts: tuple[bytes, ...], number: int) -> list[bytes]:
    return [key for key in keys if not (key[0] == number and len(key) == 20 and key[4:6] in starts)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"there": False}, "is not there"),
        ({"there": False, "dormant": True}, "is dormant"),
        ({"hooked": ()}, "no chain of table netdev netpol-agent-frames sees what comes in there"),
        ({"hooked": tuple(one._replace(priority=-400) for one in WHOLE.hooked)}, "has the priority -400"),
        ({"hooked": tuple(one._replace(number=1) for one in WHOLE.hooked)}, "sees what leaves by veth1"),
        (
            {"hooked": (*WHOLE.hooked, WHOLE.hooked[0]._replace(devices=("eth0",)))},
            "sees frames of eth0, which is no pod's link",
        ),
        ({"hooked": tuple(one._replace(accepts=False) for one in WHOLE.hooked)}, ""),
    ],
)
def test_where_the_table_is_hooked_is_proved_too(changed: dict[str, object], said: str) -> None:
    differences = found(WHOLE._replace(**changed))  # type: ignore[arg-type]
    if said:
        assert any(said in one.said for one in differences), [one.said for one in differences]
    else:
        # All frames come to a verdict, so that what the chain's policy says of the others is nothing.
        assert differences == []


def test_an_interface_that_is_gone_is_not_asked_for() -> None:
    given = msgspec.structs.replace(GIVEN, frames=(A, B, link(9, MAC_B, "10.0.0.7")))
    assert found(WHOLE, given) == []
