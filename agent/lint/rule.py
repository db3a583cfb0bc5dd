"""A rule: the row of the table that findings and docs/lint.md are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.lint.finding import Hit, Severity
from agent.lint.scene import Policy, Scene

Check = Callable[[Policy, Scene], Iterator[Hit]]
"""Looks at one policy, with all that the input holds."""


class Rule(NamedTuple):
    """A rule. ``id`` never changes: people name it in comments.

    ``title`` says what is wrong in a few words, ``why`` what follows of it, ``remedy`` what to do. ``needs``
    says what the input must hold for the rule to speak. ``check`` is None for what is found when the text is
    read. ``of_parts``: what it says of a part of a policy is true whatever the other parts say, so it
    is asked of a policy that a server refuses, too.
    """

    id: str
    severity: Severity
    title: str
    why: str
    remedy: str
    check: Check | None = None
    needs: str = ""
    fixable: bool = False
    of_parts: bool = False
