"""What a person is told that is wrong, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """Something wrong that a person should know of.

    ``what`` names the object and the trouble in one line, ``remedy`` what to do about it. A fault that is
    ``blocking`` keeps the agent from being ready: something that should hold does not. ``reason`` is one
    word for counting: ``rules``, ``sets``, ``conntrack``, ``read`` (the kernel could not be read),
    ``kube-router``, ``defect`` (of the agent) or ``other``.
    """

    what: str
    remedy: str = ""
    blocking: bool = True
    reason: str = "other"
