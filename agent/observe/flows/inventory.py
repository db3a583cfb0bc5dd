"""What names the ends of a logged connection, and the policies about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from agent.kube.model import Pod
from agent.policy.extract import Extract


class Inventory(NamedTuple):
    """How the inventory is asked, from another thread than the loop's. Both may raise TimeoutError."""

    extract: Callable[[Sequence[bytes]], Extract]
    pods: Callable[[], Iterable[Pod]]
