"""The other end of ``/flows``: following a running agent, for ``netpol-agent watch``."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Generator
from urllib.parse import urlencode

from agent.observe.client import UnreachableError
from agent.observe.flows.hub import Wanted

SILENCE = 15.0
"""Seconds without a sign of life after which the agent counts as gone: it gives one every two seconds."""


def follow(url: str, wanted: Wanted, last: int) -> Generator[bytes]:
    """Yield lines of JSON as the agent reports connections, after the last so many reports.

    Ends when the agent does. Raises UnreachableError where no agent answers.
    """
    query = {
        "follow": "1",
        "limit": str(last),
        "verdict": wanted.verdict or "",
        "pod": wanted.pod,
        "policy": wanted.policy,
    }
    if not url.startswith(("http://", "https://")):
        raise UnreachableError(f"--url is {url!r}: give it as http://ADDRESS:PORT.")
    # A proxy set for the cluster's or the world's addresses has no way to this host's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = f"{url.rstrip('/')}/flows?{urlencode({k: v for k, v in query.items() if v})}"
    try:
        answer = opener.open(asked, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        detail = error.read(500).decode(errors="replace").strip()
        raise UnreachableError(f"{url} answers {error.code}: {detail}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(
            f"no agent answers at {url}: {getattr(reason, 'strerror', None) or reason}. Is it running? "
            "--url says where it serves."
        ) from None
    with answer:
        try:
            yield from (line for line in map(bytes.strip, answer) if line)
        except OSError:
            # The agent has gone, or is silent.
            return
