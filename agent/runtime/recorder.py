"""What the loop tells the history: each change of enforcement, once the kernel has it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent import __version__
from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.backend import Report
from agent.dataplane.differences import Repair
from agent.history.change import NO_EFFECT, Change, Effect, Subject, What
from agent.history.confirmed import Confirmation
from agent.kube.events import Delete, Event, Invalid, Origin, Upsert
from agent.kube.mode import Mode
from agent.kube.model import Key, Kind, NetworkPolicy, Object, Pod
from agent.net import Direction
from agent.policy.budget.excess import Excess
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta
from agent.policy.program import PodId
from agent.runtime import effects
from agent.runtime.backlog import is_far
from agent.runtime.calls import Calls, Phase
from agent.runtime.churn import Churn
from agent.runtime.cuts import Cut
from agent.runtime.effects import Effects
from agent.runtime.troubles import Faults, Troubles
from agent.sources.source import Source

LOOK_EVERY = 1.0
"""Seconds between two looks for outages and faults that began or ended."""
PATIENCE = 2.0
"""Seconds after which a change is told though the kernel does not have it yet."""
_OPEN = 2_000
"""Changes that may wait for the kernel; of more the oldest are told without a time."""
_SKEW = 2.0
"""Seconds by which the API server's clock may be ahead of this node's."""
_DAY = 86_400.0
"""Seconds after which a time in the future is taken for none."""

_SUBJECTS = {
    Kind.POLICY: Subject.POLICY,
    Kind.POD: Subject.POD,
    Kind.NAMESPACE: Subject.NAMESPACE,
    Kind.NODE: Subject.NODE,
}


_STAGED = {Mode.ENFORCE: What.ENABLED, Mode.AUDIT: What.AUDITED, Mode.DISABLED: What.DISABLED}


class Journal(Protocol):
    """Takes changes, and waits for nothing: :class:`agent.history.writer.Writer`."""

    def put(self, change: Change) -> None: ...

    def settle(self, numbers: Iterable[int], at: float) -> None: ...


class _Before:
    """One object that a step is about: as it was, and the last event of it."""

    __slots__ = ("event", "old", "selected")

    def __init__(self, event: Upsert | Delete | Invalid, old: Object | None, selected: set[PodId]) -> None:
        self.event = event
        self.old = old
        self.selected = selected


@dataclass
class Noted:
    """What was noted of a step before it was made."""

    seen: float
    near: dict[tuple[Kind, Key], _Before] = field(default_factory=dict)
    far: list[Event] = field(default_factory=list)


class Recorder:
    """Tells a journal what changes here. A task: due each second, and when the agent begins to enforce.

    A step is noted before the engine makes it and told after: see :meth:`begin` and :meth:`end`. A change is
    open until the kernel has it. Until everything has been enforced once there is only the start to tell.
    """

    def __init__(
        self, node: str, engine: Engine, calls: Calls, source: Source, journal: Journal, clock: Clock
    ) -> None:
        self.faults: Faults = lambda: ()
        self.confirmed: Callable[[], Mapping[str, Confirmation]] = dict
        """Asked each second which policies have been confirmed since."""
        self._node = node
        self._engine = engine
        self._calls = calls
        self._source = source
        self._journal = journal
        self._clock = clock
        self._held: dict[Direction, set[bytes]] = {}
        """What the kernel held isolated when the agent began to write."""
        self._number = 0
        self._open: dict[int, Change] = {}
        self._late: dict[int, Key | None] = {}
        """Changes that were told already, by number, with the policy that may wait to be compiled."""
        self._churn = Churn()
        self._troubles = Troubles()
        self._enforcing = False
        self._at = NEVER

    # --- Steps ------------------------------------------------------------------------------------------

    def begin(self, events: Sequence[Event], seen: float) -> Noted | None:
        """Note how things are before a step; ``seen``: when its events came, ``time.time()`` seconds."""
        if not events or not self._enforcing:
            return None
        noted = Noted(seen)
        for event in events:
            if is_far(event, self._engine.is_here, self._node):
                noted.far.append(event)
            elif isinstance(event, Upsert | Delete | Invalid):
                key = event.object.key if isinstance(event, Upsert) else event.key
                before = noted.near.get((event.kind, key))
                if before is not None:
                    before.event = event
                    continue
                old = self._engine.known(event.kind, key)
                selected = self._engine.selected_by(key) if event.kind is Kind.POLICY else set()
                noted.near[event.kind, key] = _Before(event, old, selected)
        return noted

    def end(self, noted: Noted | None, delta: Delta) -> None:
        """Tell of a step that has been made."""
        if noted is None:
            return
        if noted.far and delta:
            self._churn.add(noted.far, delta, noted.seen, self._clock.monotonic())
        if noted.near:
            told = Effects(self._engine, delta, len(noted.near) + len(noted.far))
            for (kind, key), before in noted.near.items():
                self._tell(kind, key, before, noted.seen, delta, told)

    def _tell(self, kind: Kind, key: Key, before: _Before, seen: float, delta: Delta, told: Effects) -> None:
        event, old = before.event, before.old
        new = self._engine.known(kind, key)
        detail: tuple[str, ...] = ()
        if isinstance(event, Invalid):
            detail = _problems(event, old is not None)
        elif old == new and kind is not Kind.NODE:
            return
        effect = self._effect(kind, key, before, delta, told)
        if effect is None:
            return
        what = _what(event, old)
        if what is What.CHANGED and isinstance(old, NetworkPolicy) and isinstance(new, NetworkPolicy):
            was, now = self._engine.staging.mode(old), self._engine.staging.mode(new)
            what = what if was is now else _STAGED[now]
        # A cluster-scoped object is found by its own name as a namespace.
        namespace, name = (key.name, "") if kind is Kind.NAMESPACE else key
        self._add(
            _SUBJECTS[kind],
            what,
            seen,
            namespace,
            name,
            api=_api_time(event, old, seen),
            who=_who(event.origin),
            old=old,
            new=new,
            detail=detail,
            effect=effect,
            written=bool(delta),
        )

    def _effect(self, kind: Kind, key: Key, before: _Before, delta: Delta, told: Effects) -> Effect | None:
        """Return what an object's change did here; None where it concerns nothing here."""
        if kind is Kind.POLICY:
            selected = before.selected | self._engine.selected_by(key)
            return told.of(selected, selected=selected) if selected else None
        if not delta:
            return None
        if kind is Kind.POD:
            ids = [PodId(direction, key) for direction in Direction]
            program = self._engine.lowered.pods
            isolating = {
                policy for i in ids if (pod := program.get(i)) is not None for policy in pod.policies
            }
            return told.of(ids, policies=isolating)
        if kind is Kind.NAMESPACE:
            return told.of(told.changed(key.name))
        return told.of(()) if delta.node_networks else None

    # --- What is no step --------------------------------------------------------------------------------

    def started(self, why: str) -> None:
        """Tell that the agent has started; ``why``: what it has chosen to program."""
        self._at = self._clock.monotonic()
        self._add(Subject.AGENT, What.STARTED, self._clock.time(), detail=(f"version {__version__}", why))

    def adopted(self, isolated: Mapping[Direction, set[bytes]]) -> None:
        """Take note of the addresses that the kernel holds isolated before the agent writes."""
        self._held = {direction: set(addresses) for direction, addresses in isolated.items()}

    def stopped(self) -> None:
        """Tell that the agent ends, and what the kernel did not get."""
        self._flush()
        self._add(Subject.AGENT, What.STOPPED, self._clock.time())
        for change in self._open.values():
            self._journal.put(change)
        self._open.clear()

    def repair(self, repair: Repair) -> None:
        """Tell what differed between the kernel and what it should hold, which is about to be put back."""
        told = repair.differences
        self._add(Subject.REPAIR, What.MADE, self._clock.time(), who=repair.by, detail=told, written=True)

    def pod_told(self, pod: Key, detail: str) -> None:
        """Tell of a pod of this node what changed nothing in the kernel."""
        if self._enforcing:
            self._add(Subject.POD, What.CHANGED, self._clock.time(), *pod, detail=(detail,))

    def budgets(self, news: Mapping[Key, Excess | None]) -> None:
        """Tell which policies went over their budget, or came back."""
        if not self._enforcing:
            return
        for key, excess in news.items():
            what = What.ENDED if excess is None else What.BEGUN
            detail = () if excess is None else (str(excess),)
            effect = Effect(selected=_names(self._engine.selected_by(key)))
            self._add(
                Subject.BUDGET, what, self._clock.time(), *key, detail=detail, effect=effect, written=True
            )

    def cut(self, cut: Cut) -> None:
        """Tell that connections of a pod were ended."""
        effect = Effect(selected=(str(cut.pod.pod),), policies=cut.policies)
        told, pod, at = cut.lines(), cut.pod.pod, cut.at
        self._add(Subject.CONNECTIONS, What.CUT, at, *pod, kernel=at, detail=told, effect=effect)

    def ended(self, report: Report) -> None:
        """Take note of a call of the backend whose work has ended: the kernel may have what is open."""
        del report
        if (self._open or self._late or not self._churn.empty) and self._has_all():
            self._settle(self._clock.time())

    # --- The task ---------------------------------------------------------------------------------------

    def due(self) -> float:
        """Return when it is to look; at once where the agent has begun to enforce."""
        begins = not self._enforcing and self._calls.phase is Phase.ENFORCING
        return AT_ONCE if begins else self._at

    def run(self, now: float) -> None:
        """Look for what began or ended, and tell what has waited long enough."""
        self._at = now + LOOK_EVERY
        if not self._enforcing and self._calls.phase is Phase.ENFORCING:
            self._enforcing = True
            effect = effects.at_start(self._engine, self._held)
            self._add(Subject.AGENT, What.ENFORCING, self._clock.time(), effect=effect)
            self._held = {}
        time = self._clock.time()
        for policy, found in self.confirmed().items():
            namespace, _, name = policy.partition("/")
            by = (f"last written by {found.manager or 'nobody known'}",)
            self._add(Subject.POLICY, What.CONFIRMED, time, namespace, name, who=found.who, detail=by)
        for trouble in self._troubles.look(self._source.states(), self.faults(), time):
            subject, what, name, detail = trouble
            self._add(subject, what, time, name=name, detail=detail)
        if self._churn.due(now):
            self._flush()
        if self._open or self._late:
            if self._has_all():
                self._settle(time)
            for number, change in list(self._open.items()):
                if change.seen > time - PATIENCE and len(self._open) <= _OPEN:
                    break
                self._journal.put(change)
                self._late[number] = _policy(change)
                del self._open[number]
            while len(self._late) > _OPEN:
                del self._late[next(iter(self._late))]

    def _flush(self) -> None:
        """Tell what pods of other nodes changed."""
        since, kernel = self._churn.since, self._churn.kernel
        for told in self._churn.take():
            self._add(
                Subject.REMOTE_PODS,
                What.CHANGED,
                since,
                told.namespace,
                kernel=kernel,
                detail=told.detail,
                effect=told.effect,
                stands_for=told.changes,
                written=kernel is None,
            )

    def _has_all(self) -> bool:
        """Whether the kernel holds all that it was given."""
        calls = self._calls
        return not calls.refused and not calls.retry.pending and not calls.backend.busy

    def _settle(self, at: float) -> None:
        if not self._churn.empty:
            self._churn.kernel = at
        waiting = self._engine.is_waiting
        for number, change in list(self._open.items()):
            policy = _policy(change)
            if policy is None or not waiting(policy):
                del self._open[number]
                self._journal.put(change._replace(kernel=at))
        done = [number for number, policy in self._late.items() if policy is None or not waiting(policy)]
        for number in done:
            del self._late[number]
        if done:
            self._journal.settle(done, at)

    def _add(
        self,
        subject: Subject,
        what: What,
        seen: float,
        namespace: str = "",
        name: str = "",
        *,
        api: float | None = None,
        kernel: float | None = None,
        who: str = "",
        old: Object | None = None,
        new: Object | None = None,
        detail: tuple[str, ...] = (),
        effect: Effect = NO_EFFECT,
        stands_for: int = 1,
        written: bool = False,
    ) -> None:
        """Tell of a change; ``written``: the kernel is to have it, so it is open until then."""
        self._number += 1
        change = Change(
            self._number,
            *(subject, what, seen, namespace, name, api, kernel, who),
            *(old, new, detail, effect, stands_for),
        )
        if written:
            self._open[self._number] = change
        elif subject in (Subject.POLICY, Subject.POD, Subject.NAMESPACE):
            # Nothing had to be written: what the kernel holds means this already.
            self._journal.put(change._replace(kernel=self._clock.time()))
        else:
            self._journal.put(change)


def _policy(change: Change) -> Key | None:
    return Key(change.namespace, change.name) if change.subject is Subject.POLICY else None


def _names(pods: Collection[PodId]) -> tuple[str, ...]:
    return tuple(sorted({str(pod_id.pod) for pod_id in pods}))


def _what(event: Upsert | Delete | Invalid, old: Object | None) -> What:
    if isinstance(event, Invalid):
        return What.REFUSED
    if isinstance(event, Delete):
        return What.DELETED
    return What.ADDED if old is None and event.kind is not Kind.NODE else What.CHANGED


def _problems(event: Invalid, good: bool) -> tuple[str, ...]:
    told = [f"{p.field}: {p.message}" if p.field else p.message for p in event.problems]
    return (*told, event.meanwhile(good))


def _who(origin: Origin) -> str:
    return f"{origin.manager} ({origin.operation})" if origin.operation else origin.manager


def _api_time(event: Upsert | Delete | Invalid, old: Object | None, seen: float) -> float | None:
    """Return when the API server had a change; of one second's accuracy, as its times are.

    A ``deletionTimestamp`` is when an object was to be gone, which may be later than it went.
    """
    text = event.origin.at
    if not text and isinstance(event, Upsert) and old is None:
        text = _created(event.object)
    if not text:
        return None
    try:
        at = datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
    # An object may say any time of itself, of the year 9999 too.
    return None if at > seen + (_SKEW if isinstance(event, Delete) else _DAY) or at < 0 else at


def _created(found: Object) -> str:
    return found.created if isinstance(found, Pod | NetworkPolicy) else ""
