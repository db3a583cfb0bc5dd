"""What is taken away is taken away: through failed writes, restarts and a change of the iptables mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables.tables import TableError, Tables
from agent.dataplane.iptables.variant import MODES, Mode
from agent.kernel import conntrack
from agent.kube.model import Key, Port, Rule
from agent.net import Direction, Family, Protocol
from agent.policy.engine import Engine
from tests.build import labelled, packed
from tests.kernel.kernel_state import (
    HERE,
    TwoPods,
    gone,
    make_backend,
    namespace,
    our_chains,
    our_sets,
    pod_event,
    pods_of,
    policy,
)

pytestmark = pytest.mark.usefixtures("netns", "lock_file")


class Forgotten(set[bytes]):
    """What connection tracking was told to forget, from when the test empties it."""

    def forget(self, addresses: Iterable[bytes]) -> int:
        wanted = set(addresses)
        self.update(wanted)
        return conntrack.forget(wanted)


def refuse_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every restore fail as it does while another program holds the lock for too long."""

    def restore(_: Tables, lines: Mapping[Family, list[str]], *__: object) -> dict[Family, TableError]:
        return {
            f: TableError("restore", "the lock is held", refused=False) for f, text in lines.items() if text
        }

    monkeypatch.setattr(Tables, "restore", restore)


def sets_looked_at(mode: Mode) -> set[bytes]:
    """Return the IPv4 addresses in sets of peers that rules refer to."""
    text = str(our_chains(mode)[Family.V4])
    return {
        member
        for name, members in our_sets().items()
        if name.startswith("KUBE-SRC-4-") and f"--match-set {name} " in text
        for member in members
        if isinstance(member, bytes)
    }


def test_a_failed_switch_holds_back_no_revocation(node: TwoPods, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pod_event("x", 7, node="there", app="b")
    node.backend.apply(node.program, node.engine.apply([peer], 1.0))
    assert packed("10.0.0.7") in sets_looked_at(node.mode)
    with monkeypatch.context() as broken:
        refuse_restores(broken)
        # A policy that changes together with its peers is switched, which needs the restore.
        edited = policy(
            "a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),), (Port(Protocol.TCP, 80),))]
        )
        new = pod_event("y", 8, node="there", app="b")
        assert node.backend.apply(node.program, node.engine.apply([edited, new], 2.0)).pending
        assert packed("10.0.0.8") not in sets_looked_at(node.mode)
        node.backend.apply(node.program, node.engine.apply([gone(peer)], 3.0))
        assert packed("10.0.0.7") not in sets_looked_at(node.mode)
        assert node.backend.sync(node.program).pending
        node.backend.apply(node.program, node.engine.apply([pod_event("b", 2, app="else")], 4.0))
        assert packed("10.0.0.2") not in sets_looked_at(node.mode)
    assert node.backend.sync(node.program).faults == ()
    node.backend.tidy(node.program)
    assert sets_looked_at(node.mode) == {packed("10.0.0.8")}
    assert node.backend.audit(node.program) == []


def test_a_revocation_in_the_step_that_fails_happens_all_the_same(
    node: TwoPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        refuse_restores(broken)
        edited = policy(
            "a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),), (Port(Protocol.TCP, 80),))]
        )
        delta = node.engine.apply([edited, pod_event("b", 2, app="else")], 1.0)
        assert node.backend.apply(node.program, delta).pending
        assert packed("10.0.0.2") not in sets_looked_at(node.mode)
        assert node.backend.sync(node.program).pending
        assert packed("10.0.0.2") not in sets_looked_at(node.mode)


@pytest.mark.parametrize("mode", MODES)
def test_connections_of_an_address_that_left_while_the_agent_was_away_are_forgotten(
    mode: Mode,
) -> None:
    forgotten = Forgotten()
    events = [
        namespace("default"),
        pod_event("a", 1, app="a"),
        pod_event("c", 3, app="c"),
        policy("a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),))]),
        policy("c", selector=labelled(app="c"), ingress=[]),
    ]
    before = Engine(HERE)
    before.apply([*events, pod_event("b", 2, node="there", app="b")], 0.0)
    backend = make_backend(mode, access=Access(forget=forgotten.forget))
    assert backend.sync(before.lowered).faults == ()
    backend.close()
    forgotten.clear()
    after = Engine(HERE)
    after.apply(
        [*events, pod_event("d", 3, app="c"), gone(pod_event("c", 3)), pod_event("other", 2, node="there")],
        0.0,
    )
    backend = make_backend(mode, access=Access(forget=forgotten.forget))
    assert backend.sync(after.lowered, {packed("10.0.0.3"): Key("default", "d")}).faults == ()
    assert forgotten >= {packed("10.0.0.2"), packed("10.0.0.3"), packed("fd00::2")}
    assert packed("10.0.0.1") not in forgotten
    backend.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_change_of_mode_changes_no_set_that_the_old_rules_look_at(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Mode = "legacy" if mode == "nft" else "nft"
    events = [namespace("default"), pod_event("a", 1, app="a"), pod_event("b", 2, app="b")]
    before = Engine(HERE)
    before.apply([*events, policy("a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),))])], 0.0)
    backend = make_backend(other)
    assert backend.sync(before.lowered).faults == ()
    backend.close()
    narrowed = policy(
        "a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),), (Port(Protocol.TCP, 80),))]
    )
    after = Engine(HERE)
    after.apply([*events, narrowed, pod_event("x", 7, node="there", app="b")], 0.0)
    seen: list[set[bytes]] = []
    whole = Tables.restore

    def restore(tables: Tables, lines: Mapping[Family, list[str]], *others: Any) -> dict[Family, TableError]:
        seen.append(sets_looked_at(other))
        return whole(tables, lines, *others)

    monkeypatch.setattr(Tables, "restore", restore)
    backend = make_backend(mode)
    assert backend.sync(after.lowered).faults == ()
    assert seen
    assert all(packed("10.0.0.7") not in members for members in seen), seen
    assert our_chains(other)[Family.V4] == {}
    backend.tidy(after.lowered)
    assert sets_looked_at(mode) == {packed("10.0.0.2"), packed("10.0.0.7")}
    assert backend.audit(after.lowered) == []
    assert names.isolated_set(Direction.INGRESS, Family.V4) in our_sets()
    backend.close()


def test_a_vacant_address_is_forgotten_when_it_is_quiet_and_at_the_latest_before_its_next_owner(
    node: TwoPods,
) -> None:
    forgotten = Forgotten()
    node.forget = forgotten.forget
    address = {packed("10.0.0.7"), packed("fd00::7")}

    def come_and_go() -> None:
        for event in (pod_event("x", 7, node="there", app="b"), gone(pod_event("x", 7))):
            node.backend.apply(node.program, node.engine.apply([event], 1.0))
        assert not address & sets_looked_at(node.mode)

    come_and_go()
    assert forgotten == set()
    assert node.backend.untidy()
    node.backend.tidy(node.program)
    assert forgotten == address
    assert not node.backend.untidy()
    forgotten.clear()
    come_and_go()
    node.backend.apply(node.program, node.engine.apply([pod_event("y", 7, node="there", app="b")], 1.0))
    assert forgotten == address


def test_a_policy_that_comes_back_before_it_is_tidied_up_finds_its_sets_and_the_peers_of_now(
    node: TwoPods,
) -> None:
    again = policy("again", selector=labelled(app="a"), ingress=[Rule((pods_of(app="late"),))])
    late = [pod_event(f"late-{number}", number, node="there", app="late") for number in (20, 21)]
    for event in (late[0], again, gone(again), late[1], gone(late[0]), again):
        assert node.backend.apply(node.program, node.engine.apply([event], 1.0)).faults == ()
    held = sets_looked_at(node.mode)
    assert packed("10.0.0.21") in held
    assert packed("10.0.0.20") not in held
    node.backend.tidy(node.program)
    assert node.backend.audit(node.program) == []
