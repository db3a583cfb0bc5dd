"""The budgets of namespaces, kept up to date: which policies there is room for."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from math import inf

from agent.kube.model import Key, NetworkPolicy
from agent.policy.budget.account import (
    Most,
    Spent,
    Total,
    Wants,
    count_members,
    members_excess,
    no_members,
    spent,
)
from agent.policy.budget.excess import MEMBERS, Excess, own_excess
from agent.policy.budget.limits import Budgets
from agent.policy.lower.cost import cost_of

_Place = tuple[str, str]
"""When a policy was created, and its name: the order in which a namespace's policies are served."""


REOPEN_PERCENT = 90
"""A policy closed for its members is open again when so much of the budgets has room for it: else it would
close and open as pods come and go."""

_SLACK = 20
"""Members are counted anew when this part of a budget may have been added; and those of a closed policy, when
this part of all pods came or went."""


class _Entry:
    """A policy that selects pods here.

    ``members``: how many its sets have at most, as counted last; None: they are to be counted. ``fresh``: it
    came or was edited since the last look.
    """

    __slots__ = ("admitted", "fresh", "members", "policy", "spent")

    def __init__(self, policy: NetworkPolicy, one: Spent) -> None:
        self.policy = policy
        self.spent = one
        self.admitted = False
        self.fresh = True
        self.members: int | None = None


class _Account:
    """One namespace: its policies that select pods here, in order, and what those admitted cost."""

    def __init__(self, counted: float) -> None:
        self.entries: dict[Key, _Entry] = {}
        self.order: list[tuple[_Place, Key]] = []
        self.wants = Wants()
        self.total = Total()
        self.closed = 0
        """How many are not admitted."""
        self.counted = counted
        """How far the cluster had moved when the members were counted last."""

    def remove(self, key: Key) -> tuple[_Place, Key] | None:
        entry = self.entries.pop(key, None)
        if entry is None:
            return None
        place = (entry.spent[:2], key)
        del self.order[bisect_left(self.order, place)]
        if entry.admitted:
            self.total.remove(entry.spent)
        else:
            self.closed -= 1
        self.wants.release(entry.spent.cost)
        return place

    def put(self, key: Key, entry: _Entry) -> tuple[_Place, Key]:
        place = (entry.spent[:2], key)
        self.entries[key] = entry
        insort(self.order, place)
        self.closed += 1
        return place


class Ledger:
    """Says which policies are enforced as written, as :func:`agent.policy.budget.account.over_budget` does.

    Handles: a policy that comes to select pods here, is edited, selects more or fewer kinds of pod, and goes,
    in any order. While a namespace is within its budget each of these costs as much as the policy alone; else
    as much as the policies that come after it.

    How many members the sets of a policy have, pods decide. They are counted when it comes or is edited. They
    are counted anew (:meth:`recount`) when pods may have added so many that a namespace is over its budget;
    then the newest close. One that was closed for them stays so until there is some room to spare.
    """

    def __init__(self, budgets: Budgets, most: Most = no_members) -> None:
        self._budgets = budgets
        policy, namespace = budgets
        own, whole = (one.members * REOPEN_PERCENT // 100 for one in budgets)
        self._narrow_own = budgets._replace(policy=policy._replace(members=own))
        self._narrow_whole = budgets._replace(namespace=namespace._replace(members=whole))
        self._most = most
        self._moved = 0
        """How far the cluster moved so far: no set has gained more members."""
        self._due: float = inf
        """How far it may move before members are counted anew."""
        self._stirred = 0
        self._crowded: dict[Key, bool] = {}
        """Policies closed for their members, and whether it is for those of their namespace."""
        self._again: list[Key] = []
        """Those of them that are still to be looked at, since pods went."""
        self._recounted: set[str] = set()
        """The namespaces of those that were looked at."""
        self._accounts: dict[str, _Account] = {}
        self._first: dict[str, tuple[_Place, Key]] = {}
        """The first place in each namespace at which something changed since the last look."""
        self._changed: dict[Key, None] = {}
        self._forced: set[str] = set()
        """Namespaces to be served anew though no policy changed."""
        self._excess: dict[Key, Excess] = {}
        self._news: dict[Key, Excess | None] = {}

    @property
    def excess(self) -> Mapping[Key, Excess]:
        """The policies that are not enforced as written, and why."""
        return self._excess

    def put(self, key: Key, policy: NetworkPolicy, reach: int) -> None:
        """Take a policy that selects ``reach`` kinds of pod here."""
        account = self._accounts.setdefault(key.namespace, _Account(self._moved))
        old = account.entries.get(key)
        known = old is not None and old.policy is policy
        if old is not None and known:
            cost = old.spent.cost
        else:
            cost = account.wants.take(cost_of(policy, self._budgets.policy.selectors))
        one = spent(policy, reach, cost)
        if old is not None and old.spent == one:
            old.policy = policy
            if not known:
                account.wants.release(cost)
            return
        entry = _Entry(policy, one)
        if old is not None and known:
            account.wants.hold(cost)
            entry.members, entry.fresh = old.members, old.fresh
        self.remove(key)
        self._accounts[key.namespace] = account
        self._note(key, account.put(key, entry))

    def remove(self, key: Key) -> None:
        """Forget a policy that selects no pod here."""
        account = self._accounts.get(key.namespace)
        place = account.remove(key) if account is not None else None
        if account is None or place is None:
            return
        self._note(key, place)
        if not account.entries:
            del self._accounts[key.namespace]

    def _note(self, key: Key, place: tuple[_Place, Key]) -> None:
        self._changed[key] = None
        first = self._first.get(key.namespace)
        if first is None or place < first:
            self._first[key.namespace] = place

    def cost(self, key: Key) -> Spent:
        """Return what a policy that selects pods here costs."""
        return self._accounts[key.namespace].entries[key].spent

    def members(self, key: Key) -> int:
        """Return how many members a policy that selects pods here has at most."""
        return self._accounts[key.namespace].entries[key].members or 0

    def recount(self, moved: int, stirred: int, pods: int) -> None:
        """Count members anew where that may close or open a policy at the next :meth:`decide`.

        ``moved``: how often addresses, groups and namespaces were held against sets and terms so far.
        ``stirred``: how often one of all ``pods`` came or went.
        """
        self._moved = moved
        if moved >= self._due:
            self._due = inf
            for namespace, account in self._accounts.items():
                if moved >= self._when(account):
                    self._count(namespace, account)
                self._due = min(self._due, self._when(account))
        if self._crowded and not self._again and abs(stirred - self._stirred) * _SLACK > pods:
            self._stirred = stirred
            self._again = list(self._crowded)
            self._recounted = set()
        if self._again:
            # One at a time: each may have thousands of sets.
            self._reopen(self._again.pop(0))

    def doubt(self) -> None:
        """Have the members of all namespaces counted anew."""
        self._due = -inf
        for account in self._accounts.values():
            account.counted = -inf

    def _when(self, account: _Account) -> float:
        """Return how far the cluster may move before the members of a namespace may be too many."""
        limit = self._budgets.namespace.members
        return account.counted + max(limit - account.total.members, limit // _SLACK, 1)

    def _count(self, namespace: str, account: _Account) -> None:
        """Count the members of a namespace's policies that are enforced; serve it anew if too many."""
        account.counted = self._moved
        members = 0
        for found in account.total.sets:
            found.members = self._most(found.what)
            members += found.members
        account.total.members = members
        if members > self._budgets.namespace.members:
            for entry in account.entries.values():
                if entry.admitted:
                    entry.members = None
            self._forced.add(namespace)
            self._first[namespace] = account.order[0]

    def _reopen(self, key: Key) -> None:
        """Have a namespace served anew where there is room for one that was closed for its members."""
        account = self._accounts.get(key.namespace)
        entry = account.entries.get(key) if account is not None else None
        if account is None or entry is None or key not in self._crowded:
            return
        if key.namespace not in self._recounted:
            self._recounted.add(key.namespace)
            self._count(key.namespace, account)
        entry.members = None
        excess = self._members_excess(account, key, entry)
        if excess is not None:
            self._note_excess(key, excess)
        else:
            place = (entry.spent[:2], key)
            self._forced.add(key.namespace)
            self._first[key.namespace] = min(place, self._first.get(key.namespace, place))

    def sets_of(self, namespace: str) -> int:
        """Return how many sets the policies of a namespace that there is room for ask for."""
        account = self._accounts.get(namespace)
        return len(account.total.sets) if account is not None else 0

    def decide(self) -> set[Key]:
        """Decide anew where something changed; return the policies for which the answer may be another."""
        if not self._first:
            return set()
        changed = set(self._changed)
        for namespace, first in self._first.items():
            account = self._accounts.get(namespace)
            if account is not None:
                changed |= self._walk(account, first, forced=namespace in self._forced)
                self._due = min(self._due, self._when(account))
        for key in self._changed:
            account = self._accounts.get(key.namespace)
            entry = account.entries.get(key) if account is not None else None
            if entry is not None:
                entry.fresh = False
            else:
                self._note_excess(key, None)
        self._first, self._changed, self._forced = {}, {}, set()
        return changed

    def _walk(self, account: _Account, first: tuple[_Place, Key], *, forced: bool) -> set[Key]:
        """Serve the policies of a namespace in order, from the first that may be served otherwise."""
        new = [key for key in self._changed if key in account.entries]
        if account.closed == len(new) and not forced:
            # There was room for all others; while there is room for these too, the order does not matter.
            for key in new:
                self._serve(account, key)
            if not account.closed:
                return set(new)
        start = bisect_left(account.order, first)
        served = [key for _, key in account.order[start:]]
        before = {key: account.entries[key].admitted and key not in self._changed for key in served}
        for key in served:
            entry = account.entries[key]
            if entry.admitted:
                entry.admitted = False
                account.total.remove(entry.spent)
                account.closed += 1
        for key in served:
            self._serve(account, key)
        return {key for key in served if account.entries[key].admitted is not before[key]}

    def _serve(self, account: _Account, key: Key) -> None:
        entry = account.entries[key]
        excess = own_excess(entry.spent.cost, self._budgets.policy)
        excess = excess or account.total.excess_with(entry.spent, self._budgets.namespace)
        excess = excess or self._members_excess(account, key, entry)
        self._note_excess(key, excess)
        if excess is not None:
            return
        entry.admitted = True
        account.total.add(entry.spent)
        account.closed -= 1

    def _members_excess(self, account: _Account, key: Key, entry: _Entry) -> Excess | None:
        if entry.members is None:
            entry.members = count_members(entry.spent.cost, self._budgets, self._most)
        budgets = self._budgets
        # One that comes or is edited is held against the whole of the budgets.
        whole = self._crowded.get(key) if not entry.fresh else None
        if whole is not None:
            budgets = self._narrow_whole if whole else self._narrow_own
        excess = members_excess(entry.spent, entry.members, account.total, budgets)
        return excess._replace(stays=whole is excess.whole) if excess is not None else None

    def _note_excess(self, key: Key, excess: Excess | None) -> None:
        if (key in self._excess) is not (excess is not None):
            if key in self._news:
                # It is again as it was when it was last told.
                del self._news[key]
            else:
                self._news[key] = excess
        elif key in self._news:
            self._news[key] = excess
        if excess is not None and excess.what == MEMBERS:
            self._crowded[key] = excess.whole
        else:
            self._crowded.pop(key, None)
        if excess is not None:
            self._excess[key] = excess
        else:
            self._excess.pop(key, None)

    def take_news(self) -> Mapping[Key, Excess | None]:
        """Return the policies that are over budget, or no longer, since the last call."""
        news, self._news = self._news, {}
        return news

    def sizes(self) -> dict[str, int]:
        return {
            "policies with a cost": sum(len(account.entries) for account in self._accounts.values()),
            "policies over budget": len(self._excess) + len(self._crowded),
            "sets with a cost": sum(len(account.wants) for account in self._accounts.values()),
        }
