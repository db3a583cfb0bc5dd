"""Audited policies while something changes: no mode is left over, and no other policy is weakened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.dataplane.iptables import cleanup, verdict_cache
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.kube.events import Event
from agent.kube.mode import Mode
from agent.kube.model import Object
from agent.net import Direction, Family
from tests.kernel.kernel_state import await_opened
from tests.kernel.semantics.stage import TIMES, Stage, gone, serial
from tests.kernel.semantics.test_nodes import by_output
from tests.kernel.semantics.test_reuse import NEWER
from tests.kernel.semantics.test_staging import LOG, counted, staged
from tests.kernel.semantics.test_verdict_cache import cached, member
from tests.kernel.semantics.written import isolated, labels, pods, policy
from tests.kernel.stream import Stream
from tests.lab import packets
from tests.lab.cluster import wait_until

OUT = policy("out", labels(pod="a"), egress=[{}], types=["Egress"])
"""Isolates the sender, and lets it do all: what it sends is judged, and cached where it passes."""
NONE = isolated("s")
SOME = policy("some", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}])
PORT = 5000
RATE = 3000


@pytest.fixture(autouse=True)
def _usual_options(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verdict_cache, "IDLE", 0.05)
    yield
    stage.given(options=Options())


def to_s(stage: Stage, source: str = "a", family: Family = Family.V4) -> Stream:
    return Stream(stage.pods[source], stage.pods["s"], PORT, RATE, burst=4, family=family)


@pytest.mark.both_modes
@pytest.mark.routed
def test_under_a_running_sender_no_mode_outlives_its_change(stage: Stage, family: Family) -> None:
    stage.given(OUT, NONE, options=LOG)
    with to_s(stage, family=family) as stream:
        assert not stream.arrives()
        for mode in (Mode.AUDIT, Mode.ENFORCE, Mode.DISABLED, Mode.ENFORCE):
            stage.then(staged(NONE, mode))
            assert stream.arrives() is (mode is not Mode.ENFORCE)


@pytest.mark.routed
def test_what_is_cached_while_it_passes_an_audit_is_denied_once_that_is_enforced(stage: Stage) -> None:
    # What an audited policy allows is cached; then the policy is another, and enforced.
    stage.given(OUT, staged(SOME), options=LOG)
    await_opened()
    with to_s(stage) as stream:
        assert stream.arrives()
        wait_until(lambda: member(stage, Family.V4, "a", f"udp:{PORT}", "s") in cached(stage, Family.V4))
        stage.then(policy("some", labels(pod="s"), ingress=[{"from": [pods(pod="b")]}]))
        assert not stream.arrives()
        stage.then(staged(SOME))
        assert stream.arrives()
        stage.then(SOME)
        assert stream.arrives()


@pytest.mark.routed
def test_what_a_policy_allowed_beside_another_it_allows_no_more_when_it_is_audited(stage: Stage) -> None:
    stage.given(NONE, SOME, options=LOG)
    await_opened()
    with to_s(stage) as stream:
        for _ in range(2):
            assert stream.arrives()
            stage.then(staged(SOME))
            assert not stream.arrives()
            stage.then(SOME)
        stage.then(staged(SOME), staged(NONE))
        assert stream.arrives()
        stage.then(NONE)
        assert not stream.arrives()


@pytest.mark.routed
def test_an_audited_policy_that_allows_less_counts_what_was_cached(stage: Stage) -> None:
    stage.given(OUT, staged(SOME), options=LOG)
    await_opened()
    with to_s(stage) as stream:
        assert stream.arrives()
        wait_until(lambda: member(stage, Family.V4, "a", f"udp:{PORT}", "s") in cached(stage, Family.V4))
        before = counted(stage)
        stage.then(staged(policy("some", labels(pod="s"), ingress=[{"from": [pods(pod="b")]}])))
        assert stream.arrives()
        then = counted(stage)
        assert then > before
        assert stream.arrives()
        assert counted(stage) > then


@pytest.mark.routed
@pytest.mark.parametrize("told", ["at once", "deletion last"])
@pytest.mark.parametrize("before", ["audited", "isolated"])
def test_an_address_that_goes_from_the_one_to_the_other(stage: Stage, before: str, told: str) -> None:
    place = stage.pods["s"]
    old = stage.pod("old", place=place, ns="x", labels={"pod": before})
    after = "isolated" if before == "audited" else "audited"
    new = stage.pod("new", place=place, ns="x", labels={"pod": after}, started=NEWER)
    # The one that has the address in the cast is none here.
    nobody = stage.pod("s", addresses=())
    both = (staged(isolated("audited")), isolated("isolated"))
    stage.given(nobody, old, *both, options=LOG, linger=60)
    steps: dict[str, list[list[Event | Object]]] = {
        "at once": [[gone(old), new]],
        "deletion last": [[new], [gone(old)]],
    }
    with to_s(stage) as stream:
        assert stream.arrives() is (before == "audited")
        for events in steps[told]:
            stage.then(*events)
        assert stream.arrives() is (after == "audited")
        _as_written(stage)


def _as_written(stage: Stage) -> None:
    stage.tidy()
    with stage.kernel():
        assert stage.backend is not None
        assert stage.backend.audit(stage.engine.lowered) == []


@pytest.mark.routed
def test_a_pod_is_closed_after_it_only_while_its_policy_is_enforced(stage: Stage) -> None:
    pod = stage.pod("s")
    for first, last in ((Mode.ENFORCE, Mode.AUDIT), (Mode.AUDIT, Mode.ENFORCE)):
        stage.given(staged(NONE, first), options=LOG, linger=60)
        stage.then(staged(NONE, last))
        stage.then(gone(pod))
        flows = "a -> s: udp/53"
        stage.expect(*([flows] if last is Mode.AUDIT else []), denied=[flows] if last is Mode.ENFORCE else [])
        _as_written(stage)


@pytest.mark.routed
def test_a_pod_that_goes_in_the_moment_its_policy_becomes_audited_is_closed_as_it_was_judged(
    stage: Stage,
) -> None:
    stage.given(NONE, options=LOG, linger=60)
    stage.then(staged(NONE), gone(stage.pod("s")))
    stage.expect(denied="a -> s: udp/53")
    stage.then(stage.pod("s"))
    stage.expect("a -> s: udp/53")
    _as_written(stage)


@pytest.mark.both_modes
@pytest.mark.routed
def test_an_agent_that_comes_after_one_that_was_killed(stage: Stage) -> None:
    """Whatever the annotation became meanwhile, and it writes nothing where that is as it was."""
    stage.given(OUT, staged(NONE), isolated("t"), options=LOG)
    with to_s(stage) as stream:
        was = Mode.AUDIT
        for mode in (Mode.AUDIT, Mode.ENFORCE, Mode.AUDIT):
            _die(stage)
            assert stream.arrives() is (was is not Mode.ENFORCE)
            stage.given(OUT, staged(NONE, mode), isolated("t"), options=LOG)
            assert stream.arrives() is (mode is not Mode.ENFORCE)
            stage.expect(denied="a -> t: udp/53")
            _as_written(stage)
            was = mode


def _die(stage: Stage) -> None:
    """Leave the kernel as an agent does that is killed."""
    stage.backend = None


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.iptables
def test_what_somebody_does_to_its_chains_denies_nothing_and_is_repaired(
    stage: Stage, family: Family
) -> None:
    stage.given(OUT, staged(NONE), staged(isolated("t", types=["Egress"])), isolated("b"), options=LOG)
    chains = [
        line.split()[1]
        for line in stage.near.iptables(family, "-S").splitlines()
        if line.startswith("-N") and ("AUDIT" in line or names.AUDIT_POD_PREFIX in line)
    ]
    assert len(chains) >= 4
    for chain in chains:
        stage.near.iptables(family, "-F", chain)
        stage.expect("a t -> s: udp/53", denied="a t -> b: udp/53")
    with stage.kernel():
        assert stage.backend is not None
        assert len(stage.backend.audit(stage.engine.lowered)) == len(chains)
    stage.repair()
    with stage.kernel():
        assert stage.backend.audit(stage.engine.lowered) == []
    before = counted(stage)
    stage.expect(f"IPv{int(family)} a -> s: udp/53", denied="a -> b: udp/53")
    assert counted(stage) > before


@pytest.mark.both_modes
@pytest.mark.routed
@pytest.mark.iptables
def test_cleanup_takes_it_all_away(stage: Stage) -> None:
    stage.given(staged(NONE), staged(isolated("t", types=["Egress"])), isolated("b"), options=LOG)
    with stage.kernel():
        assert cleanup.remove(stage.mode.value, tuple(Family)) == []
        assert cleanup.remove_sets() == []
        assert cleanup.is_clean()
    _die(stage)


@pytest.mark.bridge
@pytest.mark.parametrize(
    "options", [LOG, Options(accept=True), Options(reject=True)], ids=["", "accept", "reject"]
)
def test_neighbours_are_found_and_are_nothing_to_count(stage: Stage, options: Options) -> None:
    for others in ((), (isolated("b", types=["Ingress", "Egress"]),)):
        both = ["Ingress", "Egress"]
        stage.given(
            *(staged(isolated(name, types=both)) for name in ("s", "t", "a")), *others, options=options
        )
        stage.lab.flush_neighbours()
        stage.lab.settle()
        with stage.kernel():
            before = counted(stage)
        stage.expect("s -> s: udp/53")
        stage.expect("IPv6 near -> s t a: udp/53")
        assert counted(stage) == before
        stage.lab.flush_neighbours()
        refusal = {("rejected" if options.reject else "denied"): "s t -> b"} if others else {}
        stage.expect("c out f -> s t", "s t -> c f", **refusal)


OTHERS = 0xC00C4000
"""Bits of a mark that are not ours."""


@pytest.mark.both_modes
@pytest.mark.iptables
@pytest.mark.parametrize("guarded", [True, False])
def test_a_packet_leaves_without_our_marks_and_with_those_of_others(
    stage: Stage, family: Family, guarded: bool
) -> None:
    both = Options().both_marks
    assert not OTHERS & both
    stage.given(staged(SOME), *([OUT, isolated("b")] if guarded else []), options=LOG)
    for brought in (0, both, Options().mark(Direction.INGRESS), Options().mark(Direction.EGRESS)):
        with ExitStack() as stack:
            arrives = ["-t", "mangle", "PREROUTING", "-p", "udp", "--dport", str(PORT)]
            leaves = ["-t", "mangle", "POSTROUTING", "-p", "udp", "--dport", str(PORT)]
            rules = (
                [*arrives, "-j", "MARK", "--set-mark", hex(OTHERS | brought)],
                [*leaves, "-m", "mark", "--mark", f"{OTHERS:#x}/0xffffffff", "-j", "ACCEPT"],
            )
            for rule in rules:
                table, name, chain, *rest = rule
                stage.near.iptables(family, table, name, "-A", chain, *rest)
                stack.callback(stage.near.iptables, family, table, name, "-D", chain, *rest)
            for source in "ac":  # allowed by the policy, and what would be denied
                one, s = stage.pods[source], stage.pods["s"]
                packet = packets.udp(one.address(family), s.address(family), PORT, b"", source_port=serial())
                packets.send_ip(one, packet)
            stage.lab.settle()
            listed = stage.near.iptables(family, "-t", "mangle", "-L", "POSTROUTING", "-v", "-n", "-x")
            assert listed.splitlines()[2].split()[0] == "2"


@pytest.mark.both_modes
@pytest.mark.routed
def test_packets_of_others_through_output_pass_an_audit(stage: Stage, family: Family) -> None:
    mark = 0x34000
    stage.given(staged(NONE), staged(isolated("a", types=["Egress"])), isolated("t"), OUT, options=LOG)
    stage.others_judged(told=True)
    before = counted(stage)
    stage.all_arrive(stage.pods["s"], by_output(stage, "c", "s", family, mark=mark))
    assert counted(stage) - before == TIMES
    stage.all_arrive(stage.pods["s"], by_output(stage, "near", "s", family, mark=mark))
    assert counted(stage) - before == TIMES
    stage.none_arrive(stage.pods["t"], by_output(stage, "c", "t", family, mark=mark))
