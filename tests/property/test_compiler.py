"""The compiler against histories and against the plain truth."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import strategies as st

from agent.kube.events import Event, Upsert
from agent.kube.mode import Mode
from agent.kube.model import IPBlock, Key, Kind, NetworkPolicy, Pod, Rule
from agent.net import AddressPort, Direction, Family, Member
from agent.policy.addresses.former_owners import LOCAL_SECONDS
from agent.policy.budget.limits import DEFAULT, Budgets
from agent.policy.engine import Engine
from agent.policy.lower import lowering
from agent.policy.lower.blocks import block_members, block_ranges, in_ranges
from agent.policy.lower.lowered import Delta, LoweredProgram, Membership, SetId, SetKind
from agent.policy.lower.verdicts import Sort, Verdicts
from agent.policy.program import PodId, PolicyId, Program, Verdict
from agent.spec.verdict import Packet
from tests.property import strategies
from tests.property.choices import tried
from tests.property.histories import Batch
from tests.property.interpreter import program_allows, program_would_deny
from tests.property.meaning import verdict, would_deny
from tests.property.networks import edges, in_networks
from tests.property.oracle import World, block_holds
from tests.property.words import CORNERS, HERE

Directed = dict[Direction, set[bytes]]


def snapshot(program: LoweredProgram) -> LoweredProgram:
    return LoweredProgram(
        dict(program.policies),
        dict(program.pods),
        {set_id: set(members) for set_id, members in program.sets.items()},
        {direction: set(addresses) for direction, addresses in program.closed.items()},
        program.node_networks,
        audited=dict(program.audited),
        known=None if program.known is None else set(program.known),
        pod_networks=program.pod_networks,
    )


def all_isolated(program: LoweredProgram, direction: Direction) -> set[bytes]:
    return {a for family in Family for a in program.isolated(direction, family)}


def address_of(member: Member) -> bytes:
    if isinstance(member, bytes):
        return member
    return member.address if isinstance(member, AddressPort) else member.network.address


def pod_members(program: LoweredProgram) -> set[bytes]:
    """Return every address that is in a set of pods."""
    return {
        address_of(member)
        for set_id, members in program.sets.items()
        if set_id.kind is not SetKind.NETWORKS
        for member in members
    }


def difference(
    before: LoweredProgram, after: LoweredProgram, local: set[bytes], released: set[bytes]
) -> Delta:
    """Return the delta between two programs; ``local`` addresses and those released are told."""
    both = before.sets.keys() & after.sets.keys()
    members: dict[SetId, Membership] = {
        set_id: Membership(after.sets[set_id] - before.sets[set_id], before.sets[set_id] - after.sets[set_id])
        for set_id in both
        if before.sets[set_id] != after.sets[set_id]
    }
    changed = {address_of(m) for change in members.values() for side in change for m in side}
    was = {d: all_isolated(before, d) for d in Direction}
    now = {d: all_isolated(after, d) for d in Direction}
    return Delta(
        policies={
            i for i in before.policies | after.policies if before.policies.get(i) != after.policies.get(i)
        },
        pods={i for i in before.pods | after.pods if before.pods.get(i) != after.pods.get(i)},
        audited={i for i in before.audited | after.audited if before.audited.get(i) != after.audited.get(i)},
        sets_added=after.sets.keys() - both,
        sets_removed=before.sets.keys() - both,
        members=members,
        isolated={d: now[d] - was[d] for d in Direction},
        opened={d: was[d] - now[d] for d in Direction},
        released=released,
        local=changed & local,
        node_networks=before.node_networks != after.node_networks,
    )


class Follower:
    """Feeds a world and an engine the same events and checks every step."""

    def __init__(self, *, allow_nodes: bool, budgets: Budgets = DEFAULT, most: int | None = None) -> None:
        self.world = World()
        self.allow_nodes = allow_nodes
        self.budgets = budgets
        self.most = most
        self.engine = Engine(HERE, allow_nodes=allow_nodes, budgets=budgets)
        self.now = 0.0
        self.vacated: set[bytes] = set()
        self.closed: dict[bytes, tuple[Key, str]] = {}
        """Whose the closed addresses are."""
        self.closed_until: dict[tuple[Direction, bytes], float] = {}

    def owners(self) -> dict[bytes, tuple[Key, str]]:
        owners = ((a, self.world.owner(a)) for a in self.world.addresses())
        return {a: (pod.key, pod.uid) for a, pod in owners if pod is not None}

    def local(self) -> set[bytes]:
        owners = ((a, self.world.owner(a)) for a in self.world.addresses())
        return {a for a, pod in owners if pod is not None and pod.node == HERE}

    def step(self, batch: Batch) -> Delta:
        self.now += batch.seconds
        before = snapshot(self.engine.lowered)
        local = self.local()
        owners = self.owners()
        departed: list[tuple[bytes, tuple[Key, str]]] = []
        closing: dict[tuple[Direction, bytes], tuple[Key, str]] = {}
        ended: set[tuple[Key, str]] = set()
        for event in batch.events:
            pods = dict(self.world.pods)
            self.world.take(event)
            for pod in pods.values():
                self.note_end(pod, self.world.pods.get(pod.key), before, closing, ended)
            later = self.owners()
            departed += [(a, pod) for a, pod in owners.items() if later.get(a) != pod]
            owners = later
        delta = self.engine.apply(batch.events, self.now, self.most)
        after = self.engine.lowered
        concerned = local | self.local() | pod_members(before) | pod_members(after)
        changed = {a for a, pod in departed if owners.get(a) != pod}
        released = changed & concerned
        closed_before = set().union(*before.closed.values())
        assert delta.released >= released
        # Besides: what was closed and is not any more, what another pod takes over later, and what was this
        # node's only between two events of one batch.
        assert delta.released - released <= closed_before | self.vacated | changed
        vacant = {a for a in released if a not in owners and a not in local and a not in closed_before}
        assert delta.vacant == vacant
        self.vacated = (self.vacated | delta.released) - owners.keys()
        expected = difference(before, after, local | self.local(), delta.released)
        expected.vacant = vacant
        assert delta == expected
        assert bool(delta) == bool(expected.released or snapshot(after) != before)
        asked = [*after.pods.items(), *after.audited.items()]
        active = {PolicyId(d, key) for (d, _), pod in asked for key in pod.policies}
        program = self.engine.program
        assert after.policies.keys() == program.policies.keys()
        assert after.policies.keys() >= active
        assert all(self.is_audited(one.policy) for one in after.policies.keys() - active)
        assert after.pods.keys().isdisjoint(after.audited)
        assert program.pods is after.pods
        assert program.audited is after.audited
        assert program.closed is after.closed
        assert program.node_networks == after.node_networks
        self.check_closed(closing, ended)
        return delta

    def is_audited(self, key: Key) -> bool:
        """Whether a policy is audited: beside one that is enforced it is compiled, and nobody asks it."""
        policy = self.engine.staging.written(key)
        return policy is not None and self.engine.staging.mode(policy) is Mode.AUDIT

    def note_end(
        self,
        old: Pod,
        new: Pod | None,
        before: LoweredProgram,
        closing: dict[tuple[Direction, bytes], tuple[Key, str]],
        ended: set[tuple[Key, str]],
    ) -> None:
        """Note whether one of this node's pods came to its end, and where that leaves addresses closed."""
        if old.node != HERE:
            return
        if new is None or new.uid != old.uid:
            ended.add((old.key, old.uid))
        elif not is_live(old) or is_live(new):
            return
        if is_live(old):
            for direction in Direction:
                program = before.pods.get(PodId(direction, old.key))
                for address in program.addresses if program is not None else ():
                    if address in old.addresses:
                        closing[direction, address] = old.key, old.uid

    def check_closed(
        self, closing: dict[tuple[Direction, bytes], tuple[Key, str]], ended: set[tuple[Key, str]]
    ) -> None:
        """An address is closed from its isolated pod's end, for 60 s or until it is taken."""
        owners = self.owners()
        for place in list(self.closed_until):
            if place[1] in owners:
                del self.closed_until[place]
            elif self.closed[place[1]] in ended:
                self.closed_until[place] = self.now + 60
        self.closed_until = {p: until for p, until in self.closed_until.items() if until > self.now}
        for (direction, address), pod in closing.items():
            if address not in owners:
                self.closed_until[direction, address] = self.now + 60
                self.closed[address] = pod
        closed = self.engine.lowered.closed
        assert {(d, a) for d, addresses in closed.items() for a in addresses} == self.closed_until.keys()
        assert self.engine.deadline() == min(self.closed_until.values(), default=None)

    def fresh(self, shuffled: list[Event]) -> Engine:
        """Return an engine that was told the objects as they are now, in another order."""
        engine = Engine(HERE, allow_nodes=self.allow_nodes, budgets=self.budgets)
        engine.apply(shuffled, 0.0)
        engine.apply(self.world.invalid.values(), 0.0)
        return engine


def is_live(pod: Pod) -> bool:
    return bool(pod.addresses) and not pod.finished and not pod.host_network


def without_closed(program: LoweredProgram) -> LoweredProgram:
    return LoweredProgram(
        program.policies,
        program.pods,
        program.sets,
        node_networks=program.node_networks,
        audited=program.audited,
    )


@tried(
    strategies.histories,
    st.booleans(),
    st.randoms(use_true_random=False),
    strategies.budgets,
    st.sampled_from((None, None, 0, 40)),
)
def test_any_history_ends_where_its_objects_say(
    history: list[Batch], nodes: bool, random: Random, budgets: Budgets, most: int | None
) -> None:
    follower = Follower(allow_nodes=nodes, budgets=budgets, most=most)
    for batch in history:
        follower.step(batch)
    follower.most = follower.most or 1
    while follower.engine.waiting:
        follower.step(Batch(0.0, ()))
    follower.most = None
    shuffled = follower.world.events()
    random.shuffle(shuffled)
    fresh = follower.fresh(shuffled)
    assert without_closed(follower.engine.lowered) == without_closed(fresh.lowered)
    assert follower.engine.program.policies == fresh.program.policies
    assert follower.engine.invalid() == fresh.invalid()
    assert follower.engine.over_budget() == fresh.over_budget()
    assert [pod.key for pod in follower.engine.local_pods()] == [pod.key for pod in fresh.local_pods()]
    follower.step(Batch(0.0, tuple(follower.world.deletes())))
    follower.step(Batch(60.0, ()))
    assert follower.engine.program == Program()
    assert follower.engine.lowered == LoweredProgram()
    follower.step(Batch(LOCAL_SECONDS, ()))
    assert {name: size for name, size in follower.engine.sizes().items() if size} == {}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@tried(strategies.histories, st.booleans())
def test_without_sets_for_nobody_each_step_still_says_what_it_changed(
    patch: pytest.MonkeyPatch, history: list[Batch], nodes: bool
) -> None:
    with patch.context() as few:
        few.setattr(lowering, "EMPTY_SETS", 0)
        follower = Follower(allow_nodes=nodes)
        for batch in history:
            follower.step(batch)
        follower.step(Batch(0.0, tuple(follower.world.deletes())))
        follower.step(Batch(LOCAL_SECONDS, ()))
    assert {name: size for name, size in follower.engine.sizes().items() if size} == {}


@tried(
    strategies.histories,
    st.booleans(),
    st.lists(strategies.probes, min_size=20, max_size=40),
    st.sampled_from((0, 2, lowering.EMPTY_SETS)),
)
def test_a_program_judges_packets_as_the_objects_do(
    patch: pytest.MonkeyPatch, history: list[Batch], nodes: bool, probes: list[Packet], empty: int
) -> None:
    patch.setattr(lowering, "EMPTY_SETS", empty)
    world = World()
    engine = Engine(HERE, linger=0, allow_nodes=nodes)
    for batch in history:
        for event in batch.events:
            world.take(event)
        engine.apply(batch.events, 0.0)
    verdicts = Verdicts(engine.lowered)
    for probe in probes:
        denier = verdicts.denies(Sort(*probe))
        assert (denier is None) == all(world.allows(d, probe, nodes=nodes) for d in Direction), probe
        assert denier is None or not world.allows(denier.direction, probe, nodes=nodes), probe
        for direction in Direction:
            allowed = world.allows(direction, probe, nodes=nodes)
            said = verdict(engine.program, world, direction, probe)
            assert (said is Verdict.ALLOW) == allowed, (direction, probe)
            assert program_allows(engine.lowered, direction, probe) == allowed, (direction, probe)
            denied = world.would_deny(direction, probe, nodes=nodes)
            assert would_deny(engine.program, world, direction, probe) == denied, (direction, probe)
            assert program_would_deny(engine.lowered, direction, probe) == denied, (direction, probe)


@tried(st.lists(strategies.blocks, max_size=4), st.sampled_from(list(Family)))
def test_block_lists_hold_exactly_what_their_blocks_do(blocks: list[IPBlock], family: Family) -> None:
    ranges = block_ranges(blocks, family)
    members = block_members(blocks, family)
    size = 4 if family is Family.V4 else 16
    assert all(len(network.address) == size and network.prefix > 0 for network, _ in members)
    assert len({network for network, _ in members}) == len(members)
    in_family = [block for block in blocks if block.cidr.family is family]
    # Never more than the blocks name, and one for each /0, which is told as its halves.
    named = {n for block in in_family for n in (block.cidr, *block.excepts)}
    assert len(members) <= len(named) + sum(network.prefix == 0 for network in named)
    ends = {bytes(size), b"\xff" * size}
    for address in ends.union(*(edges(network) for network in named)):
        expected = any(block_holds(block, address) for block in in_family)
        assert in_ranges(address, ranges) == expected
        assert in_networks(members, address) == expected


@tried(st.lists(strategies.rules, min_size=1, max_size=3), st.sampled_from(list(Direction)))
def test_every_reference_of_a_program_is_to_a_set_of_its_direction_and_family(
    rules: list[Rule], direction: Direction
) -> None:
    engine = Engine(HERE)
    here = Pod("red", "a", node=HERE, addresses=(CORNERS.addresses[1],))
    spec = tuple(rules)
    ingress = direction is Direction.INGRESS
    policy = NetworkPolicy("red", "p", ingress=spec if ingress else None, egress=None if ingress else spec)
    engine.apply([Upsert(Kind.POD, here), Upsert(Kind.POLICY, policy)], 0.0)
    program = engine.lowered.policies[PolicyId(direction, policy.key)]
    used = set()
    for family in Family:
        for rule in program.rules(family):
            assert (rule.ports is None) == (rule.named is None)
            assert rule.peers != () or rule.folded or rule.blocks
            assert not rule.blocks or rule.peers is not None
            assert list(rule.blocks) == sorted(set(rule.blocks))
            for set_id in rule.sets():
                assert (set_id.direction, set_id.family) == (direction, family)
                used.add(set_id)
            for sets in (rule.peers or (), rule.named or (), rule.folded):
                assert list(sets) == sorted(set(sets))
    assert used == engine.lowered.sets.keys()
