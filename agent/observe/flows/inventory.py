"""What names the ends of a logged connection, and the policies about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.kube.model import Key, Pod
from agent.policy.extract import Extract


class Inventory(NamedTuple):
    """How the inventory is asked, from another thread than the loop's.

    ``extract`` and ``pods`` may raise TimeoutError. ``links`` gives each pod's link by the interface's name.
    """

    extract: Callable[[Sequence[bytes]], Extract]
    pods: Callable[[], Iterable[Pod]]
    links: Callable[[], Mapping[str, Key]] = dict
