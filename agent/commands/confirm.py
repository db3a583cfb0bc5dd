"""``netpol-agent confirm``: acknowledges a policy that one's own pipeline did not write."""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path

from agent.clock import moment
from agent.history.confirmed import Confirmation
from agent.history.confirmed import confirm as write
from agent.observe.client import fetch


class NotUnconfirmedError(Exception):
    """The agent does not show the policy as one that has to be confirmed. The text says what it shows."""


def confirm(url: str, directory: Path, policy: str) -> str:
    """Confirm a policy, by ``NAMESPACE/NAME``, as the agent at a URL knows it; return who wrote it last.

    Raises UnreachableError, NotUnconfirmedError, or StoreError where the file cannot be written.
    """
    _, snapshot = fetch(url)
    found = next((one for one in snapshot.unconfirmed if one.policy == policy), None)
    if found is None:
        shown = ", ".join(one.policy for one in snapshot.unconfirmed[:6]) or "none"
        raise NotUnconfirmedError(
            f"{policy} is no policy that has to be confirmed (--own-managers of the agent says whose have "
            f"not); those are: {shown}"
        )
    write(directory, policy, Confirmation(found.manager, moment(time.time()), _user()))
    return found.manager


def _user() -> str:
    """Return who is at the keyboard, as far as that can be told."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return ""
