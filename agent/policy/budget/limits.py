"""How much of a node one policy, and the policies of one namespace, may take."""

from __future__ import annotations

from typing import NamedTuple, TypeVar


class PolicyBudget(NamedTuple):
    """What one policy may need: rules of the kernel, sets, and networks of its ipBlocks, excepts among them.

    ``members``: how many pods may be in its sets, added up, in both families. ``selectors``: the labels that
    the selectors of its peers name, and named ports, whether or not any pod has them: each of them is kept.

    By default one policy may name all networks of a large cloud (AWS publishes some 11,000, GitHub 5,000), or
    have 1,000 rules of its own, each with a port, a peer and both families. Of 10,000 pods it may name all
    in each of 50 peers, in both families. 5,000 labels are, say, 2,500 peers with one of the namespace and
    one of the pod each.
    """

    rules: int = 8_000
    sets: int = 4_000
    networks: int = 12_000
    members: int = 1_000_000
    selectors: int = 5_000


class NamespaceBudget(NamedTuple):
    """What all policies of a namespace that select pods of one node may need together.

    By default 1,000 policies that select pods of one node, each with fifty rules of the kernel. A set is
    counted once, however many of the policies use it. These sets are a sixteenth of what a kernel can have.
    Of 10,000 pods each of the policies may name 1,000 that no other does, in both families; or 100 peers may
    name all. So many members take 580 MB where no two pods have the same labels, and 170 MB as a rule.
    A pod that changes its labels may have to be held against all selectors, which takes some 30 ms.
    """

    policies: int = 1_000
    rules: int = 50_000
    sets: int = 4_000
    networks: int = 100_000
    members: int = 2_000_000
    selectors: int = 20_000


class Budgets(NamedTuple):
    """What policies may cost a node."""

    policy: PolicyBudget = PolicyBudget()
    namespace: NamespaceBudget = NamespaceBudget()


DEFAULT = Budgets()

Budget = TypeVar("Budget", PolicyBudget, NamespaceBudget)


def changed(budget: Budget, text: str) -> Budget:
    """Return a budget with the amounts that a text such as ``rules=8000,sets=500`` names.

    Raises ValueError when the text is not of that kind. No amount is 0: it would not be "no bound", as it is
    elsewhere, but close every policy that needs any.
    """
    amounts = {}
    for part in text.split(","):
        name, _, amount = part.strip().partition("=")
        if name not in budget._fields or not (amount.isascii() and amount.isdecimal()) or len(amount) > 9:
            raise ValueError(part)
        if not int(amount):
            raise ValueError(part)
        amounts[name] = int(amount)
    return budget._replace(**amounts)


def budget_text(budget: PolicyBudget | NamespaceBudget) -> str:
    """Return a budget as :func:`changed` reads it."""
    return ",".join(f"{name}={amount}" for name, amount in budget._asdict().items())
