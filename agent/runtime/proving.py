"""The proof that the kernel does what the policies say: begun by the agent, and made in another process.

::

    due ─► thread: a process is started ─► it is ready ─► loop: all objects, between two steps ─► process
                                                                                                     │
    found to differ, and nothing was written meanwhile ─► put back as what others changed is ◄─ what differs
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.fault import Fault
from agent.kube.model import Key, NetworkPolicy
from agent.net import Family
from agent.observe.proof import ProofState
from agent.policy.engine import Engine
from agent.proof.difference import Difference, Kind, Result
from agent.proof.given import Given
from agent.runtime import to_prove
from agent.runtime.calls import Calls, Phase
from agent.runtime.drift import Drift
from agent.runtime.frames import NOT_GUARDED, Settled
from agent.runtime.inbox import Inbox
from agent.runtime.prover import PATIENCE, Child, UnprovedError
from agent.runtime.threads import StartThread

_log = log.get(__name__)

FIRST = 15.0
"""Seconds after everything has been enforced until it is proved first."""
TRIES = 5
"""How often a proof is begun anew because the kernel was written to meanwhile."""
AGAIN = 0.5
"""Seconds until then, and until what was put back is proved."""
UNSETTLED = 0.1
"""Seconds after which the loop is asked again whether nothing is being written."""
LINKED = 3.0
"""Seconds that are waited for rules about pods' links: some changes of pods keep them from being whole."""
SHARE = 20
"""So many times as much processor time as a proof took it waits at least until the next: 5 % of a core."""
TOLD = 5
"""How many differences are told."""


class Moment(NamedTuple):
    """What is to be proved, and what the policies were then. ``writes``: to the kernel, until then."""

    given: Given
    policies: Mapping[str, NetworkPolicy]
    writes: tuple[int, int, int]


class Proved(NamedTuple):
    """Since when a policy is proved to be enforced here, in ``time.time()`` seconds, and which one it was."""

    since: float
    policy: NetworkPolicy


Place = tuple[int, Kind, str, str]
"""Of what something differs: a family, in which way, a direction, and a pod."""


class Proving:
    """Due each interval; also asked for at any time by :meth:`verify`."""

    def __init__(
        self,
        interval: float,
        node: str,
        mode: str,
        families: Callable[[], Iterable[Family]],
        engine: Engine,
        calls: Calls,
        drift: Drift,
        linked: Callable[[], bool],
        inbox: Inbox,
        clock: Clock,
        start_thread: StartThread,
        child: Child,
    ) -> None:
        self.interval = interval
        self.proved_at = 0.0
        """When the kernel was last compared with the policies, for people; 0.0 never."""
        self.result: Result | None = None
        """What that has found."""
        self.found = 0
        """How often it has found anything."""
        self.trouble = ""
        """Why the last proof came to nothing, if so."""
        self.pause = interval
        """Seconds from one proof to the next, 0.0 where none is made."""
        self.frames: Callable[[], Settled | None] = lambda: NOT_GUARDED
        """Returns whose frames the kernel guards; None while that is being written."""
        self.renew: Callable[[], None] = lambda: None
        """Has the table that guards frames written anew."""
        self._node = node
        self._mode = mode
        self._families = families
        self._engine = engine
        self._calls = calls
        self._drift = drift
        self._linked = linked
        self._inbox = inbox
        self._clock = clock
        self._start_thread = start_thread
        self._child = child
        self._policies: dict[str, Proved] = {}
        self._lasting: frozenset[str] = frozenset()
        """What the last repair did not mend."""
        self._repair_at = AT_ONCE
        self._tries = 0
        self._left: set[Place] = set()
        """Of several proofs during which the agent wrote, what differed in each of them."""
        self._right: dict[str, NetworkPolicy] = {}
        """The policies that were proved in one of them."""
        self._going = False
        self._at = NEVER
        self._one = threading.Lock()
        """One process at a time."""

    # --- The task -----------------------------------------------------------------------------------------

    def due(self) -> float:
        """Return when to prove."""
        if not self.interval or self._going or self._calls.phase is not Phase.ENFORCING:
            return NEVER
        if self._at == NEVER:
            self._at = self._clock.monotonic() + min(FIRST, self.interval)
        return self._at

    def run(self, now: float) -> None:
        """Have it proved, on a thread that waits for the process."""
        del now
        self._going = True
        try:
            self._start_thread("proof", self._prove)
        except RuntimeError as error:
            self._missed(str(error))

    def _prove(self) -> None:
        try:
            result, moment = self._made("")
        except (UnprovedError, TimeoutError, OSError) as error:
            why = str(error)
            self._inbox.call(lambda: self._missed(why))
            return
        except Exception as error:
            # Whatever it is, such as no more threads: the next proof is made all the same.
            _log.exception("a proof failed")
            failed = f"{type(error).__name__}: {error}"
            self._inbox.call(lambda: self._missed(failed))
            return
        self._inbox.call(lambda: self._take(result, moment))

    def _made(self, pod: str) -> tuple[Result, Moment]:
        """Return what a proof finds, and of what. Raises UnprovedError, TimeoutError and OSError."""
        moments: list[Moment] = []

        def given() -> Given:
            moments.append(self._moment())
            return moments[-1].given

        with self._one:
            return self._child(given, pod), moments[-1]

    def _moment(self) -> Moment:
        """Return what is to be proved, when nothing is being written. Raises UnprovedError, TimeoutError."""
        until = self._clock.monotonic() + PATIENCE / 4
        while True:
            linked = self._clock.monotonic() < until - PATIENCE / 4 + LINKED
            found = self._inbox.ask(functools.partial(self._settled, linked=linked))
            if found is not None:
                return found
            if self._clock.monotonic() > until:
                if self._calls.phase is not Phase.ENFORCING:
                    raise UnprovedError(
                        "the agent has not written everything once since it started: status says why"
                    )
                raise UnprovedError("changes are being written all the time")
            self._clock.sleep(UNSETTLED)

    def _settled(self, *, linked: bool) -> Moment | None:
        """Return what is to be proved; None while the kernel does not hold it yet.

        ``linked``: wait for the rules about links and their frames, too.
        """
        calls, engine = self._calls, self._engine
        if calls.refused:
            raise UnprovedError("another program enforces policies here")
        if calls.phase is not Phase.ENFORCING or calls.retry.pending or calls.backend.busy or engine.waiting:
            return None
        if self._drift.ahead():
            return None
        frames = self.frames()
        if linked and (frames is None or not self._linked()):
            return None
        around, all_ = calls.backend.around(), engine.extract(None)
        written = {str(policy.key): policy for policy in all_.policies if policy.key not in all_.over_budget}
        families = tuple(int(family) for family in self._families())
        head = Given(self._node, self._mode, families, (), (), (), linked=self._linked())
        given = to_prove.given(head, engine.program, all_, around, frames)
        return Moment(given, written, self._writes())

    def _writes(self) -> tuple[int, int, int]:
        frames, backend = self.frames(), self._calls.backend
        return id(backend), backend.around().writes, -1 if frames is None else frames.commits

    def _unchanged(self, moment: Moment) -> bool:
        calls = self._calls
        return not (calls.backend.busy or calls.retry.pending) and self._writes() == moment.writes

    # --- What came of it ----------------------------------------------------------------------------------

    def _missed(self, why: str) -> None:
        self._going = False
        self.trouble = why
        self._at = self._clock.monotonic() + self.interval
        _log.warning("the kernel could not be proved", detail=why)

    def _take(self, result: Result, moment: Moment) -> None:
        self._going = False
        now = self._clock.monotonic()
        self.pause = max(self.interval, SHARE * result.processor)
        self._at = now + self.pause
        if result.differences and not self._unchanged(moment):
            settled = self._piecewise(result, moment)
            if settled is None:
                self._tries += 1
                if self._tries < TRIES:
                    self._at = now + AGAIN
                else:
                    self._tries = 0
                    self.trouble = "the kernel was written to whenever it was read"
                return
            result = settled
        else:
            self._right = _right(result, moment)
        self._tries = 0
        self._settle(result, now)

    def _counted(self, result: Result, moment: Moment, *, whole: bool) -> bool:
        """Whether a proof that somebody asked for counts; of all pods it does as the agent's own do."""
        if result.differences and not self._unchanged(moment):
            return False
        if whole and (self.interval or not result.differences):
            self._right = _right(result, moment)
            self._settle(result, self._clock.monotonic())
        return True

    def _settle(self, result: Result, now: float) -> None:
        """Take note of what was found, and have it put back."""
        self.trouble = ""
        self.result, self.proved_at = result, self._clock.time()
        self._note()
        told = tuple(one.said for one in result.differences[:TOLD])
        if not told:
            self._lasting = frozenset()
            return
        self.found += 1
        if not self._lasting.issuperset(told) and now >= self._repair_at:
            # What a repair does not mend, another one does not mend either.
            self._lasting = frozenset(one.said for one in result.differences)
            self._repair_at = now + self.interval
            self._drift.repair(told)
            if any(one.frames for one in result.differences):
                self.renew()
            self._at = now + AGAIN

    def _piecewise(self, result: Result, moment: Moment) -> Result | None:
        """Return a result of several proofs during which the agent wrote; None where more are needed.

        What the agent writes differs for a moment. So of each pod and direction one proof is enough: what was
        not found to differ in one of several was as the policies say then.
        """
        if not self._tries:
            self._left, self._right = _places(result), {}
        self._left &= _places(result)
        self._right |= _right(result, moment)
        return None if self._left else _without_differences(result)

    def _note(self) -> None:
        before = self._policies
        found: dict[str, Proved] = {}
        for key, policy in self._right.items():
            old = before.get(key)
            same = old is not None and old.policy == policy
            found[key] = old if old is not None and same else Proved(self.proved_at, policy)
        self._policies, self._right = found, {}

    def proved(self, policy: Key) -> Proved | None:
        """Return since when a policy is proved to be enforced as it is now; None where it is not.

        For any thread.
        """
        found = self._policies.get(str(policy))
        return found if found is not None and found.policy == self._engine.staging.written(policy) else None

    def state(self) -> ProofState | None:
        """Return how the last proof went; None where none is made. For any thread."""
        if not self.interval:
            return None
        differences = () if self.result is None else told(self.result.differences)
        return ProofState(self.proved_at, differences, self.trouble, self.pause)

    def faults(self) -> tuple[Fault, ...]:
        """Return what a repair did not mend."""
        result = self.result
        if result is None or not result.differences:
            return ()
        more = f" (and {len(result.differences) - 1} more)" if len(result.differences) > 1 else ""
        what = f"the kernel does not do what the policies say: {result.differences[0].said}{more}"
        remedy = (
            "the agent has written everything anew; if that does not mend it, see what else changes the "
            "node's rules, and report the output of netpol-agent verify --json"
        )
        return (Fault(what, remedy, blocking=False),)

    # --- On demand ----------------------------------------------------------------------------------------

    def verify(self, pod: str = "") -> Result:
        """Prove now, and return what differs; ``pod``: of this one alone.

        What is found of all pods counts as the agent's own proofs do, and is put back as theirs is, unless
        proofs are turned off. For any thread but the loop's own. Raises UnprovedError, TimeoutError and
        OSError.
        """
        left: set[Place] | None = None
        for _ in range(TRIES):
            result, moment = self._made(pod)
            if self._inbox.ask(functools.partial(self._counted, result, moment, whole=not pod)):
                return result
            left = _places(result) if left is None else left & _places(result)
            if not left:
                return _without_differences(result)
        raise UnprovedError("the kernel was written to whenever it was read; ask again")


def _right(result: Result, moment: Moment) -> dict[str, NetworkPolicy]:
    """Return the policies of a moment that were proved."""
    return {key: moment.policies[key] for key in result.proved if key in moment.policies}


def _places(result: Result) -> set[Place]:
    return {(one.family, one.kind, one.direction, one.pod) for one in result.differences}


def _without_differences(result: Result) -> Result:
    return msgspec.structs.replace(result, differences=(), wrong=(), everything=False)


def told(differences: Iterable[Difference]) -> tuple[str, ...]:
    """Return differences as sentences."""
    return tuple(one.said for one in differences)
