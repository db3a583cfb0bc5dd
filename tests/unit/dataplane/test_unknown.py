"""The rules and sets by which an address is closed until a pod is known to have it."""

from __future__ import annotations

from collections.abc import Iterable

from agent.dataplane.iptables import guard
from agent.dataplane.iptables.change.pending import both, independent, losses, yield_to
from agent.dataplane.iptables.change.step import Gains, Step, denies
from agent.dataplane.iptables.guard import guard_rules
from agent.dataplane.iptables.ipset.known import networks_of
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names, unknown
from agent.dataplane.iptables.rules.rule import Rules
from agent.dataplane.iptables.rules.unknown import Closing, Outside
from agent.dataplane.iptables.text import render_sets, render_tables
from agent.kernel.surroundings import NONE, Surroundings
from agent.kube.events import Upsert
from agent.kube.model import Kind, Node, Pod
from agent.net import Direction, Family, Member
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import NO_NETWORKS, PodNetworks
from tests.build import network, packed

A, B, C = packed("10.0.0.1"), packed("10.0.0.2"), packed("10.0.0.3")
NAME = names.known_set(Family.V4)
OURS = frozenset({network("10.0.0.0/24")})
EMPTY: dict[Family, dict[str, Rules | None]] = {family: {} for family in Family}
CLOSING = Closing(NAME, names.pod_networks_set(Family.V4), exclusive=True)
SHARED = CLOSING._replace(exclusive=False)


def engine(**options: bool) -> Engine:
    made = Engine("here", **options)  # type: ignore[arg-type]
    found = Pod("x", "a", node="here", addresses=(A,))
    made.apply([Upsert(Kind.POD, found), Upsert(Kind.NODE, Node("here", pod_cidrs=tuple(OURS)))], 0.0)
    return made


def test_without_it_there_is_no_rule_and_no_set_of_it() -> None:
    program = engine().lowered
    texts = [*render_tables(program, Options()).values(), render_sets(program, Options())]
    assert not any(word in text for text in texts for word in ("UNKNOWN", "KNOWN", "PODNETS"))


def test_closed_is_what_is_in_the_networks_and_not_known_in_families_with_networks() -> None:
    program = engine(deny_new=True).lowered
    sets, tables = render_sets(program, Options()), render_tables(program, Options())
    assert "add KUBE-KNOWN-4 10.0.0.1\n" in sets
    assert "add KUBE-PODNETS-4 10.0.0.0/24\n" in sets
    rule = "-m set --match-set KUBE-PODNETS-4 {0} -m set ! --match-set KUBE-KNOWN-4 {0}"
    rule += " -g KUBE-NETPOL-UNKNOWN-{1}"
    for side, direction in (("src", "EGRESS"), ("dst", "INGRESS")):
        assert f"-A KUBE-NETPOL-FORWARD {rule.format(side, direction)}\n" in tables[Family.V4]
        assert (
            f"{rule.format(side, direction).replace(' -g', ' -m addrtype ! --src-type LOCAL -g')}\n"
            in (tables[Family.V4])
        )
    assert "UNKNOWN" not in tables[Family.V6]


def test_comments_are_as_iptables_prints_them() -> None:
    """Before a quote in a comment it prints a backslash."""
    rules = unknown.unknown_chains(CLOSING, unknown.NOWHERE, Family.V4, Options())
    assert rules
    assert not any("'" in rule for chain in rules.values() for rule in chain)
    assert not any("'" in rule for rule in guard_rules(OURS))


def test_new_packets_alone_are_asked() -> None:
    text = render_tables(engine(deny_new=True).lowered, Options())[Family.V4]
    forward = [line for line in text.splitlines() if line.startswith("-A KUBE-NETPOL-FORWARD")]
    first = next(at for at, line in enumerate(forward) if "UNKNOWN" in line)
    judged = next(at for at, line in enumerate(forward) if "-j KUBE-NETPOL-EGRESS" in line)
    assert any("RELATED,ESTABLISHED" in line for line in forward[:first])
    assert first < judged


def test_in_shared_networks_what_is_outside_is_let_go() -> None:
    around = Surroundings(
        underlay=frozenset({"eth0"}),
        ports=frozenset({"nic0"}),
        mixed=frozenset({"cni0"}),
        carried={"flannel.1": frozenset(), "bad name": frozenset()},
    )
    assert unknown.outside(CLOSING, around) == unknown.NOWHERE
    where = unknown.outside(SHARED, around)
    assert where == Outside(frozenset({"eth0", "flannel.1"}), frozenset({"nic0"}), frozenset({"cni0"}))
    chains = unknown.unknown_chains(SHARED, where, Family.V4, Options())
    *egress, denied = chains[names.unknown(Direction.EGRESS)]
    assert egress == ["-i eth0 -j RETURN", "-i flannel.1 -j RETURN", "-m physdev --physdev-in nic0 -j RETURN"]
    assert denied.target == names.DENY
    *ingress, denied = chains[names.unknown(Direction.INGRESS)]
    assert ingress == [
        "-o eth0 -j RETURN",
        "-o flannel.1 -j RETURN",
        "-m physdev --physdev-out nic0 --physdev-is-bridged -j RETURN",
        "-o cni0 -m physdev ! --physdev-is-bridged -j RETURN",
    ]
    assert denied.target == names.DENY
    # They come back, so what is let go is judged all the same.
    assert {rule.goto for rule in unknown.forward_rules(SHARED)} == {False}
    # By which interface a packet came in, OUTPUT does not know.
    assert [rule.target for rule in unknown.output_rules(SHARED, "")] == [names.unknown(Direction.INGRESS)]
    assert len(unknown.output_rules(CLOSING, "")) == 2


def test_the_networks_are_the_programs_or_those_of_bridges_with_a_known_pod() -> None:
    other = network("10.9.0.0/24")
    bridges = NONE._replace(bridges=frozenset({*OURS, other}))
    assert networks_of(LoweredProgram(), bridges, ()) == NO_NETWORKS
    assert networks_of(LoweredProgram(known=set()), bridges, ()) == NO_NETWORKS
    assert networks_of(LoweredProgram(known={A}), bridges, ()) == PodNetworks(OURS, exclusive=False)
    # One that was found stays with the bridge.
    assert networks_of(LoweredProgram(known=set()), bridges, OURS) == PodNetworks(OURS, exclusive=False)
    assert networks_of(LoweredProgram(known=set()), NONE, OURS) == NO_NETWORKS
    given = PodNetworks(frozenset({other}), exclusive=True)
    assert networks_of(LoweredProgram(known={A}, pod_networks=given), bridges, OURS) == given


def step(added: Iterable[bytes] = (), removed: Iterable[bytes] = ()) -> Step:
    return Step({**EMPTY}, known={NAME: Gains(set[Member](added), set[Member](removed))})


def test_fewer_known_addresses_deny_and_so_do_more_networks() -> None:
    assert denies(NAME, Gains(removed={A}))
    assert not denies(NAME, Gains({A}))
    assert denies(names.pod_networks_set(Family.V4), Gains({A}))
    assert not denies(names.pod_networks_set(Family.V4), Gains(removed={A}))


def test_of_two_steps_all_that_leave_do_so_before_any_enters() -> None:
    found = both(step({A}, {B}), step({B}, {A, C}), lambda *_: False).known[NAME]
    assert found == Gains({B}, {A, B, C})


def test_what_leaves_does_not_wait_and_is_let_in_by_none_before() -> None:
    later = step(removed={A})
    assert losses(later)[NAME] == {A}
    before = step({A, B})
    yield_to(before, later)
    assert before.known[NAME].added == {B}


def test_steps_that_change_other_addresses_may_be_made_in_any_order() -> None:
    assert independent(step({A}), step({B}, {C}))
    assert not independent(step({A}), step(removed={A}))
    assert not independent(step({A}), Step({**EMPTY}, dropped={NAME}))


def test_a_guard_that_packets_could_pass_is_told() -> None:
    rules = guard_rules(OURS)
    to_guard = {chain: (rule,) for chain, rule in guard._HOOKS.items()}
    kube_proxy = {"KUBE-FORWARD": ("-m mark --mark 0x4000/0x4000 -j ACCEPT",)}
    table = {**to_guard, names.GUARD: rules, **kube_proxy}
    found = guard._standing("nft", Family.V4, table)
    assert (found.guarded, found.passed, found.networks) == (True, "", ("10.0.0.0/24",))
    before = {**table, "FORWARD": ("-j KUBE-FORWARD", *to_guard["FORWARD"])}
    assert guard._standing("nft", Family.V4, before).passed == "FORWARD -j KUBE-FORWARD"
    harmless = {**table, "FORWARD": ("-s 10.9.0.0/16 -j DROP", *to_guard["FORWARD"])}
    assert guard._standing("nft", Family.V4, harmless).passed == ""
    assert guard._standing("nft", Family.V4, {**table, "OUTPUT": ()}).passed == "OUTPUT does not lead to it"
