"""Which rows of the history are asked for: on the command line, on the status port, of the file."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from agent.kube.model import Key

DEFAULT_LIMIT = 50
MOST = 1000
"""Rows of one answer."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_UNITS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}


class Query(NamedTuple):
    """Which rows: all that fit every part that is given, the newest ``limit`` of them.

    ``pod``: rows about the pod, and those that isolated it, opened it or changed a policy that selects it;
    also what others changed in the kernel, which may have opened or closed any pod.
    ``namespace``: of the object, or its own name. ``since`` and ``until`` are ``time.time()`` seconds.
    """

    pod: Key | None = None
    policy: Key | None = None
    namespace: str = ""
    since: float | None = None
    until: float | None = None
    limit: int = DEFAULT_LIMIT


PARTS = ("pod", "policy", "namespace", "since", "until", "limit")


def parse(texts: Mapping[str, str], now: float) -> Query:
    """Read a query from texts by the names of :class:`Query`. Raises ValueError that says what is wanted.

    ``since`` and ``until``: so long ago (``90s``, ``15m``, ``1h``, ``7d``), or an RFC 3339 time.
    """
    unknown = texts.keys() - set(PARTS)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} is not known: ask by {', '.join(PARTS)}")
    return Query(
        pod=_key(texts, "pod"),
        policy=_key(texts, "policy"),
        namespace=texts.get("namespace", ""),
        since=_time(texts, "since", now),
        until=_time(texts, "until", now),
        limit=_limit(texts.get("limit", "")),
    )


def parse_url(query: Mapping[str, Sequence[str]], now: float) -> Query:
    """Read a query from the parts of a URL; of a part that is given twice the last counts."""
    return parse({name: values[-1] for name, values in query.items()}, now)


def key_of(part: str, text: str) -> Key:
    """Read a part of a question that names an object. Raises ValueError that names the part."""
    try:
        return Key.of(text)
    except ValueError as error:
        raise ValueError(f"{part} is {error}") from None


def url_query(texts: Mapping[str, str]) -> str:
    """Return the texts of a query as a URL has them."""
    return urlencode({name: text for name, text in texts.items() if text})


def _key(texts: Mapping[str, str], part: str) -> Key | None:
    text = texts.get(part, "")
    return key_of(part, text) if text else None


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MOST and len(text) < 9):
        raise ValueError(f"limit is {text!r}: give a number from 1 to {MOST}")
    return int(text)


def _time(texts: Mapping[str, str], part: str, now: float) -> float | None:
    text = texts.get(part, "").strip()
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now - float(span[1]) * _UNITS[span[2]]
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{part} is {text!r}: give how long ago (90s, 15m, 1h, 7d) or a time such as 2026-01-31T12:00:00Z"
        ) from None
    # Without an offset it is this host's time, as a person at its terminal means it.
    return found.timestamp()
