"""How a list or a watch ends without a fault, and how long to wait then."""

from __future__ import annotations

from typing import NamedTuple


class Silent(Exception):  # noqa: N818 - not an error: there may be nothing to tell
    """A watch that was open told nothing, not even a bookmark."""


class Due(Exception):  # noqa: N818 - not an error: it is time
    """What a list lacked is to be confirmed by another one, now."""


class AnotherCluster(Exception):  # noqa: N818 - not an error: a person has confirmed it
    """What was told before is of another cluster."""


class Pause(NamedTuple):
    """How long to wait: ``least`` whatever happens, then ``seconds``, unless the server comes back.

    ``recovers``: nor longer than until the server gives something small of the kind again.
    """

    seconds: float = 0.0
    least: float = 0.0
    recovers: bool = False
