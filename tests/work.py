"""Counting work: how many lines of the agent's own code run, which no busy machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import agent

_HOME = agent.__file__.rpartition("/")[0]


def work(do: Callable[[], object]) -> int:
    """Return how many lines of the agent's own code ran in this thread, each turn of a loop counted."""
    count = 0

    def line(*_: object) -> Any:
        nonlocal count
        count += 1
        return line

    def call(frame: FrameType, *_: object) -> Any:
        return line if frame.f_code.co_filename.startswith(_HOME) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        do()
    finally:
        sys.settrace(before)
    return count
