"""The budgets of namespaces, kept up to date: which policies there is room for."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping

from agent.kube.model import Key, NetworkPolicy
from agent.policy.budget import Excess, Spent, Total, Wants, cost_of, own_excess, spent
from agent.policy.limits import Budgets

_Place = tuple[str, str]
"""When a policy was created, and its name: the order in which a namespace's policies are served."""


class _Entry:
    __slots__ = ("admitted", "policy", "spent")

    def __init__(self, policy: NetworkPolicy, one: Spent) -> None:
        self.policy = policy
        self.spent = one
        self.admitted = False


class _Account:
    """One namespace: its policies that select pods here, in order, and what those admitted cost."""

    def __init__(self) -> None:
        self.entries: dict[Key, _Entry] = {}
        self.order: list[tuple[_Place, Key]] = []
        self.wants = Wants()
        self.total = Total()
        self.closed = 0
        """How many are not admitted."""

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
    """Says which policies are enforced as written: the same as :func:`agent.policy.budget.over_budget`.

    Handles: a policy that comes to select pods here, is edited, selects more or fewer kinds of pod, and goes,
    in any order. While a namespace is within its budget each of these costs as much as the policy alone; else
    as much as the policies that come after it.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._accounts: dict[str, _Account] = {}
        self._first: dict[str, tuple[_Place, Key]] = {}
        """The first place in each namespace at which something changed since the last look."""
        self._changed: dict[Key, None] = {}
        self._excess: dict[Key, Excess] = {}
        self._news: dict[Key, Excess | None] = {}

    @property
    def excess(self) -> Mapping[Key, Excess]:
        """The policies that are not enforced as written, and why."""
        return self._excess

    def put(self, key: Key, policy: NetworkPolicy, reach: int) -> None:
        """Take a policy that selects ``reach`` kinds of pod here."""
        account = self._accounts.setdefault(key.namespace, _Account())
        old = account.entries.get(key)
        known = old is not None and old.policy is policy
        cost = old.spent.cost if old is not None and known else account.wants.take(cost_of(policy))
        one = spent(policy, reach, cost)
        if old is not None and old.spent == one:
            old.policy = policy
            if not known:
                account.wants.release(cost)
            return
        if known:
            account.wants.hold(cost)
        self.remove(key)
        self._accounts[key.namespace] = account
        self._note(key, account.put(key, _Entry(policy, one)))

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

    def sets_of(self, namespace: str) -> int:
        """Return how many sets the policies of a namespace that there is room for ask for."""
        account = self._accounts.get(namespace)
        return len(account.total.sets) if account is not None else 0

    def settle(self) -> set[Key]:
        """Decide anew where something changed; return the policies for which the answer may be another."""
        if not self._first:
            return set()
        changed = set(self._changed)
        for namespace, first in self._first.items():
            account = self._accounts.get(namespace)
            if account is not None:
                changed |= self._walk(account, first)
        for key in self._changed:
            account = self._accounts.get(key.namespace)
            if account is None or key not in account.entries:
                self._note_excess(key, None)
        self._first, self._changed = {}, {}
        return changed

    def _walk(self, account: _Account, first: tuple[_Place, Key]) -> set[Key]:
        """Serve the policies of a namespace in order, from the first that may be served otherwise."""
        new = [key for key in self._changed if key in account.entries]
        if account.closed == len(new):
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
        self._note_excess(key, excess)
        if excess is not None:
            return
        entry.admitted = True
        account.total.add(entry.spent)
        account.closed -= 1

    def _note_excess(self, key: Key, excess: Excess | None) -> None:
        if (key in self._excess) is not (excess is not None):
            if key in self._news:
                # It is again as it was when it was last told.
                del self._news[key]
            else:
                self._news[key] = excess
        elif key in self._news:
            self._news[key] = excess
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
            "policies over budget": len(self._excess),
            "sets with a cost": sum(len(account.wants) for account in self._accounts.values()),
        }
