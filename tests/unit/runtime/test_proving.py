"""When the kernel is proved, and what is done about what differs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.dataplane.differences import What
from agent.kube.events import Upsert
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy
from agent.observe.health import State, readyz
from agent.proof.difference import Difference, Result
from agent.proof.difference import Kind as Found
from agent.runtime.prover import UnprovedError
from agent.runtime.proving import FIRST, LINKED, TRIES
from tests.build import pod, upsert
from tests.unit.runtime.rig import Rig

OPEN = Difference(Found.OPEN, 4, "pod shop/db takes all from 10.9.9.9", "ingress", "shop/db", size=1)
WRONG = Result((OPEN,), wrong=("shop/db",))
POLICY = NetworkPolicy("shop", "db", ingress=())
RIGHT = Result(addresses=1, isolated=1, proved=("shop/db",))


@pytest.fixture
def proved(make: Callable[..., Rig]) -> Rig:
    """Return an agent that enforces a policy, and has been proved to."""
    rig = make(verify_interval="60")
    rig.start()
    rig.source.sink(upsert(Namespace("shop"), pod("db", "10.0.0.1", node="here"), POLICY))
    rig.source.synced()
    rig.proofs = [RIGHT]
    rig.rest(FIRST - 1.0)
    assert "proof" not in rig.threads
    prove(rig)
    return rig


def prove(rig: Rig) -> None:
    """Have the proof that is due made."""
    rig.threads.pop("proof", None)
    rig.until(lambda: "proof" in rig.threads)
    rig.beside(rig.threads["proof"])
    rig.turn()


def test_all_objects_are_given_and_what_is_proved_is_told(proved: Rig) -> None:
    (given,) = proved.given
    assert [one.name for one in given.pods] == ["db"]
    assert given.policies == (POLICY,)
    assert given.mode == "nft"
    found = proved.agent.proving.proved(Key("shop", "db"))
    assert found is not None
    assert found.since == proved.agent.proving.proved_at > 0
    figures = proved.agent.figures()
    assert (figures.proved_at, figures.proof_differences, figures.proof_found) == (found.since, 0, 0)
    assert figures.proof_interval == proved.agent.proving.interval > 0
    check = next(one for one in readyz(proved.agent.health()).checks if one.name == "proof")
    assert check.state is State.OK
    assert check.detail.startswith("nothing differed")


def test_a_policy_stays_proved_since_then_until_it_is_another(proved: Rig) -> None:
    since = proved.agent.proving.proved(Key("shop", "db"))
    proved.proofs = [RIGHT]
    prove(proved)
    assert proved.agent.proving.proved(Key("shop", "db")) == since
    changed = NetworkPolicy("shop", "db", ingress=(), egress=())
    proved.source.sink([Upsert(Kind.POLICY, changed)])
    proved.turn()
    assert proved.agent.proving.proved(Key("shop", "db")) is None
    proved.proofs = [RIGHT]
    prove(proved)
    later = proved.agent.proving.proved(Key("shop", "db"))
    assert since is not None
    assert later is not None
    assert later.since > since.since


def test_nothing_is_proved_while_the_kernel_is_ahead_of_the_program(proved: Rig) -> None:
    """An address is closed beside the loop, which has still to take why."""
    proved.agent.drift.ahead = lambda: True
    proved.threads.pop("proof", None)
    proved.rest(2.0 * proved.agent.proving.interval)
    if "proof" in proved.threads:
        proved.beside(proved.threads["proof"])
        proved.turn()
    assert len(proved.given) == 1
    proved.agent.drift.ahead = lambda: False
    proved.proofs = [RIGHT]
    prove(proved)
    assert len(proved.given) == 2


def test_before_everything_was_written_once_it_says_that_the_status_says_why(
    make: Callable[..., Rig],
) -> None:
    rig = make(verify_interval="60")
    rig.start()

    def ask() -> None:
        with pytest.raises(UnprovedError, match="status says why"):
            rig.agent.proving.verify()

    rig.beside(ask)
    assert rig.given == []


def test_frames_of_which_nothing_is_settled_are_left_out(proved: Rig) -> None:
    proved.agent.proving.frames = lambda: None
    proved.proofs = [RIGHT]
    began = proved.clock.monotonic()
    proved.beside(proved.agent.proving.verify)
    assert proved.given[-1].frames is None
    assert LINKED <= proved.clock.monotonic() - began < 2 * LINKED


def test_what_differs_is_put_back_and_proved_at_once(proved: Rig) -> None:
    syncs = len(proved.backend.named("sync"))
    proved.proofs = [WRONG, RIGHT]
    prove(proved)
    assert len(proved.backend.named("sync")) == syncs + 1
    assert proved.agent.figures().drift == {"unproved": 1}
    assert proved.agent.proving.proved(Key("shop", "db")) is None
    answer = readyz(proved.agent.health())
    assert answer.ok
    told = {one.name: one for one in answer.checks if one.state is State.WARNING}
    assert told["proof"].detail.startswith("1 found to differ")
    assert OPEN.said in told["fault"].detail
    began = proved.clock.monotonic()
    prove(proved)
    assert proved.clock.monotonic() - began < 5.0
    assert not [one for one in readyz(proved.agent.health()).checks if one.state is State.WARNING]


def test_what_a_repair_does_not_mend_is_told_and_not_put_back_again(proved: Rig) -> None:
    syncs = len(proved.backend.named("sync"))
    proved.proofs = [WRONG] * 3
    for _ in range(3):
        prove(proved)
    assert len(proved.backend.named("sync")) == syncs + 1
    assert proved.agent.figures().proof_found == 3
    assert any(OPEN.said in fault.what for fault in proved.agent.proving.faults())


def test_proofs_take_a_twentieth_of_a_core_at_most(proved: Rig) -> None:
    proved.proofs = [Result(proved=("shop/db",), processor=5.0)]
    prove(proved)
    assert proved.agent.figures().proof_interval == 100.0
    assert 99.0 < proved.agent.proving.due() - proved.clock.monotonic() <= 100.0


def test_what_is_read_while_the_agent_writes_says_nothing(proved: Rig) -> None:
    before = proved.agent.proving.proved_at
    syncs = len(proved.backend.named("sync"))
    for _ in range(TRIES):
        proved.proofs = [WRONG]
        proved.threads.pop("proof", None)
        proved.until(lambda: "proof" in proved.threads)

        def made() -> None:
            proved.threads["proof"]()

        proved.agent.proving._child = _writing(proved, proved.agent.proving._child)
        proved.beside(made)
        proved.turn()
    assert len(proved.backend.named("sync")) == syncs
    assert proved.agent.proving.proved_at == before
    assert proved.agent.proving.trouble == "the kernel was written to whenever it was read"


def test_what_differs_in_one_of_several_proofs_alone_was_being_written(proved: Rig) -> None:
    other = Difference(Found.SHUT, 4, "pod shop/web", "egress", "shop/web")
    proved.agent.proving._child = _writing(proved, proved.agent.proving._child)
    syncs, before = len(proved.backend.named("sync")), proved.agent.proving.proved_at
    for result in (WRONG, Result((other,), proved=("shop/db",))):
        proved.proofs = [result]
        prove(proved)
    assert len(proved.backend.named("sync")) == syncs
    assert proved.agent.proving.proved_at > before
    assert proved.agent.proving.result is not None
    assert proved.agent.proving.result.differences == ()
    assert proved.agent.proving.proved(Key("shop", "db")) is not None
    proved.proofs = [WRONG, Result((other,))]
    assert proved.beside(proved.agent.proving.verify).differences == ()


def _writing(rig: Rig, child: Callable[..., Result]) -> Callable[..., Result]:
    def proving(*arguments: object) -> Result:
        found = child(*arguments)
        rig.backend.calls.append(("apply", rig.clock.monotonic()))
        return found

    return proving


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnprovedError("it ended early"), "it ended early"),
        (RuntimeError("can't start new thread"), "RuntimeError: can't start new thread"),
    ],
)
def test_a_process_that_fails_is_told_and_tried_again(proved: Rig, error: Exception, told: str) -> None:
    proved.proofs = [error]
    prove(proved)
    assert proved.agent.proving.trouble == told
    assert readyz(proved.agent.health()).ok
    proved.proofs = [RIGHT]
    prove(proved)
    assert proved.agent.proving.trouble == ""


def test_what_is_proved_on_demand_counts_and_is_put_back(proved: Rig) -> None:
    """A change need not wait for the next minute to be proved, nor what differs to be put back."""
    changed = NetworkPolicy("shop", "db", ingress=(), egress=(), generation=2)
    proved.source.sink([Upsert(Kind.POLICY, changed)])
    proved.turn()
    proved.proofs = [RIGHT, RIGHT]
    assert proved.beside(proved.agent.proving.verify) == RIGHT
    found = proved.agent.proving.proved(Key("shop", "db"))
    assert found is not None
    assert found.policy.generation == 2
    assert found.since == proved.agent.proving.proved_at
    proved.clock.sleep(1.0)
    proved.beside(proved.agent.proving.verify)
    assert proved.agent.proving.proved(Key("shop", "db")) == found
    syncs = len(proved.backend.named("sync"))
    proved.proofs = [WRONG]
    assert proved.beside(lambda: proved.agent.proving.verify("shop/db")) == WRONG
    assert proved.agent.proving.proved(Key("shop", "db")) == found
    proved.proofs = [WRONG]
    assert proved.beside(proved.agent.proving.verify) == WRONG
    proved.turn()
    assert len(proved.backend.named("sync")) == syncs + 1
    assert proved.agent.proving.proved(Key("shop", "db")) is None


def test_rules_about_links_are_left_out_where_they_are_never_whole(proved: Rig) -> None:
    assert proved.given[-1].linked
    proved.agent.proving._linked = lambda: False
    proved.proofs = [RIGHT]
    assert proved.beside(proved.agent.proving.verify) == RIGHT
    assert not proved.given[-1].linked


def test_without_an_interval_nothing_is_proved_but_on_demand(make: Callable[..., Rig]) -> None:
    rig = make(verify_interval="0")
    rig.synced()
    rig.rest(100.0)
    assert "proof" not in rig.threads
    assert rig.agent.proving.state() is None
    rig.proofs = [WRONG]
    assert rig.beside(lambda: rig.agent.proving.verify("shop/db")) == WRONG
    rig.proofs = [WRONG]
    assert rig.beside(rig.agent.proving.verify) == WRONG
    rig.turn()
    assert rig.agent.proving.faults() == ()
    assert What.UNPROVED.name.lower() not in rig.agent.figures().drift
