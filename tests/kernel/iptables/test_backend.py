"""The iptables backend on the real kernel: what it writes is what it meant, whatever way led there."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from agent.dataplane.iptables.cleanup import held_families, remove, remove_sets
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.draft import Draft
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.rules.rule import Chains
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.dataplane.iptables.variant import MODES, Mode
from agent.kernel.x_tables import table_names
from agent.kube.events import Event
from agent.net import Direction, Family
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from tests.kernel.kernel_state import (
    HERE,
    assert_hooked,
    every_rule_form,
    iptables,
    make_backend,
    our_chains,
    our_sets,
)
from tests.lab.backends import FAMILIES, IPTABLES
from tests.lab.netns import Netns
from tests.property.choices import Seeded
from tests.property.histories import deletes, event
from tests.property.words import CORNERS

pytestmark = pytest.mark.usefixtures("netns", "lock_file")
EACH_MODE = pytest.mark.parametrize("mode", MODES)
OPTIONS = [
    Options(),
    Options(accept=True, reject=True, mark_egress=0x1, mark_ingress=0x80000000),
    Options(cache=0),
]


def assert_holds(program: LoweredProgram, mode: Mode, options: Options | None = None) -> None:
    """Check that a backend that was never told anything finds nothing to do."""
    backend = make_backend(mode, options)
    report = backend.sync(program)
    assert report.faults == ()
    assert report.writes == 0
    assert not backend.untidy()
    assert backend.audit(program) == []
    backend.close()


def rendered(program: LoweredProgram, mode: Mode, options: Options) -> dict[Family, Chains]:
    set_names = SetNames(
        {family: names.cache(mode, family) for family in FAMILIES if options.cache},
        {family: names.transit_set(family) for family in FAMILIES if mode == "nft"},
        untracked={family: names.untracked_set(mode, family) for family in FAMILIES},
        closed={(d, f): names.closed_set(d, f) for d in Direction for f in FAMILIES},
    )
    return Draft(FAMILIES, NodeFacts(options)).render_all(program, set_names)


@EACH_MODE
@pytest.mark.parametrize("options", OPTIONS)
def test_what_the_kernel_prints_is_what_was_rendered_for_every_form_of_rule(
    mode: Mode, options: Options
) -> None:
    engine = Engine(HERE, allow_nodes=True)
    engine.apply(every_rule_form(), 0.0)
    backend = make_backend(mode, options)
    report = backend.sync(engine.lowered)
    assert report.faults == ()
    assert report.writes > 0
    assert backend.audit(engine.lowered) == []
    assert our_chains(mode) == rendered(engine.lowered, mode, options)
    assert_hooked(mode)
    assert backend.sync(engine.lowered).writes == 0
    assert_holds(engine.lowered, mode, options)
    adopted = make_backend(mode, options).adopt()
    for direction in Direction:
        isolated = set().union(*(engine.lowered.isolated(direction, family) for family in FAMILIES))
        assert adopted[direction] == isolated


@EACH_MODE
@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_leaves_what_a_fresh_start_on_the_last_would(mode: Mode, seed: int) -> None:
    random = Random(seed)
    engine = Engine(HERE, allow_nodes=True)
    backend = make_backend(mode)
    backend.sync(engine.lowered)
    empty = our_chains(mode), our_sets()
    now = 0.0
    choices = Seeded(random)
    told: list[Event] = []
    for _ in range(50):
        now += random.choice((0.0, 1.0, 61.0))
        events = choices.several(partial(event, words=CORNERS), 1, 3)
        told += events
        report = backend.apply(engine.lowered, engine.apply(events, now))
        assert report.faults == ()
        if random.random() < 0.2:
            assert backend.tidy(engine.lowered).faults == ()
            assert not backend.untidy()
    assert backend.tidy(engine.lowered).faults == ()
    assert not backend.untidy()
    assert backend.audit(engine.lowered) == []
    grown = our_chains(mode), our_sets()
    other = Netns("fresh")
    with other.entered():
        fresh = make_backend(mode)
        fresh.sync(engine.lowered)
        assert (our_chains(mode), our_sets()) == grown
        fresh.close()
    other.close()
    assert_holds(engine.lowered, mode)

    backend.apply(engine.lowered, engine.apply(deletes(told), now))
    backend.apply(engine.lowered, engine.apply([], now + 100))
    backend.tidy(engine.lowered)
    assert (our_chains(mode), our_sets()) == empty
    assert not backend.untidy()


STRANGERS = "\n".join(
    [
        "*filter",
        ":KUBE-FORWARD - [0:0]",
        ":MINE - [0:0]",
        "-A FORWARD -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "-A MINE -m set --match-set KUBE-SRC-ABCDEFGHIJKLMNOP src -j DROP",
        "COMMIT\n",
    ]
)


@EACH_MODE
def test_cleanup_leaves_nothing_of_ours_and_everything_of_others(mode: Mode, netns: Netns) -> None:
    netns.run(["ipset", "restore"], stdin="create KUBE-SRC-ABCDEFGHIJKLMNOP hash:ip\ncreate KUBE-X hash:ip\n")
    netns.run([f"iptables-{mode}-restore", "--noflush"], stdin=STRANGERS)
    before = {family: iptables(mode, family, "-S") for family in FAMILIES}
    sets = netns.run(["ipset", "list", "-n"])
    engine = Engine(HERE, allow_nodes=True)
    engine.apply(every_rule_form(), 0.0)
    backend = make_backend(mode)
    backend.sync(engine.lowered)
    backend.close()
    for each in MODES:
        assert remove(each, FAMILIES) == []
    assert remove_sets() == []
    assert our_chains(mode) == {family: {} for family in FAMILIES}
    assert our_sets() == {}
    assert {family: iptables(mode, family, "-S") for family in FAMILIES} == before
    assert netns.run(["ipset", "list", "-n"]) == sets


@EACH_MODE
def test_the_families_that_hold_chains_of_ours_are_known_and_asking_makes_no_table(mode: Mode) -> None:
    assert held_families(mode) == frozenset()
    assert table_names(Family.V4) == ()
    backend = IPTABLES[mode].make(families=(Family.V6,))
    backend.sync(Engine(HERE).lowered)
    backend.close()
    assert held_families(mode) == {Family.V6}


@EACH_MODE
def test_what_an_earlier_run_left_in_the_other_mode_goes_once_the_chosen_one_holds(mode: Mode) -> None:
    other: Mode = "legacy" if mode == "nft" else "nft"
    engine = Engine(HERE)
    engine.apply(every_rule_form(), 0.0)
    first = make_backend(other)
    first.sync(engine.lowered)
    first.close()
    backend = make_backend(mode)
    assert backend.sync(engine.lowered).faults == ()
    assert our_chains(other) == {family: {} for family in FAMILIES}
    assert our_chains(mode) == rendered(engine.lowered, mode, Options())
    assert backend.audit(engine.lowered) == []
    assert backend.tidy(engine.lowered).faults == ()
    assert_holds(engine.lowered, mode)


def test_looking_at_what_is_left_in_legacy_mode_makes_no_legacy_table() -> None:
    backend = make_backend("nft")
    assert backend.sync(Engine(HERE).lowered).faults == ()
    assert remove("legacy", FAMILIES) == []
    for family in Family:
        assert table_names(family) == ()


@EACH_MODE
@pytest.mark.parametrize("theirs", MODES)
def test_nothing_is_written_where_kube_router_writes(
    mode: Mode, theirs: Mode, netns: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [
        "*filter",
        ":KUBE-ROUTER-FORWARD - [0:0]",
        ":KUBE-POD-FW-ABCDEFGHIJKLMNOP - [0:0]",
        "-A FORWARD -j KUBE-ROUTER-FORWARD",
        "-A KUBE-ROUTER-FORWARD -j KUBE-POD-FW-ABCDEFGHIJKLMNOP",
        "COMMIT\n",
    ]
    netns.run([f"iptables-{theirs}-restore", "--noflush"], stdin="\n".join(rules))
    engine = Engine(HERE)
    engine.apply(every_rule_form(), 0.0)
    backend = make_backend(mode)
    report = backend.sync(engine.lowered)
    assert report.refused
    assert report.pending
    assert report.writes == 0
    assert [fault.blocking for fault in report.faults] == [True]
    assert our_chains(mode) == {family: {} for family in FAMILIES}
    assert our_sets() == {}
    assert any("kube-router" in str(difference) for difference in backend.audit(engine.lowered))
    iptables(theirs, Family.V4, "-F")
    iptables(theirs, Family.V4, "-X")
    with monkeypatch.context() as broken:
        # Nobody knows then whether it has gone.
        broken.setattr(backend._rules.tables, "command", lambda *_: "/nonexistent")
        assert backend.sync(engine.lowered).refused
    report = backend.sync(engine.lowered)
    assert not report.refused
    assert report.faults == ()
    assert_holds(engine.lowered, mode)


@pytest.mark.guarantee("6.7")
@EACH_MODE
def test_kube_router_that_comes_later_is_told_as_drift_and_stops_the_writing(
    mode: Mode, netns: Netns
) -> None:
    backend = make_backend(mode)
    program = Engine(HERE).lowered
    backend.sync(program)
    rules = (
        "*filter\n:KUBE-POD-FW-ABCDEFGHIJKLMNOP - [0:0]\n-A OUTPUT -j KUBE-POD-FW-ABCDEFGHIJKLMNOP\nCOMMIT\n"
    )
    netns.run([f"iptables-{mode}-restore", "--noflush"], stdin=rules)
    assert any("kube-router" in str(difference) for difference in backend.audit(program))
    assert backend.sync(program).refused


@EACH_MODE
def test_bytes_in_comments_of_others_disturb_nothing(mode: Mode, netns: Netns) -> None:
    for comment in (b"\xff\xfe", "\u2028\x1c".encode(), b"quote \" and ' and \\", b"-j ACCEPT", b"a\nb"):
        arguments = [
            b"iptables-" + mode.encode(),
            b"-A",
            b"FORWARD",
            b"-m",
            b"comment",
            b"--comment",
            comment,
        ]
        netns.run([a.decode(errors="surrogateescape") for a in [*arguments, b"-j", b"DROP"]])
    program = Engine(HERE).lowered
    assert_holds_after_sync(program, mode)


def assert_holds_after_sync(program: LoweredProgram, mode: Mode) -> None:
    backend = make_backend(mode)
    assert backend.sync(program).faults == ()
    assert backend.audit(program) == []
    assert all(
        chain in our_chains(mode)[family] for family in FAMILIES for chain in (names.FORWARD, names.DENY)
    )
    backend.close()
    assert_holds(program, mode)
