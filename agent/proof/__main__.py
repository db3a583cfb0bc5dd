"""A proof in a process of its own: an agent starts it, hands over its objects, and is told what differs.

So a proof takes neither the agent's time nor, for longer than it lasts, its memory: and it reads the kernel
with nothing at hand of what the agent believes to be there.
"""

from __future__ import annotations

import os

_NICE = 10


def main() -> None:
    """Take a low priority before anything else is done: what a proof needs takes a while to load."""
    os.nice(_NICE)
    from agent.kernel.slices import shorten

    shorten()
    from agent.proof.process import run

    run()


if __name__ == "__main__":
    main()
