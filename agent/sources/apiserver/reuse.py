"""Asking again where a connection that was kept for the next request turns out to be closed.

A server or a proxy may close an idle connection at any time, also at the moment when the next request is
sent on it. That says nothing about the server. RFC 9112 section 9.3.1 lets a client repeat a request whose
method is idempotent, such as GET, on another connection. Where the connection was new, the server itself has
failed, and the error is the caller's.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import Any

import urllib3


class _Made(threading.local):
    """How many connections this thread has made: urllib3 does not say which one a request went out on."""

    count = 0


_made = _Made()


def count_connections(pools: Any) -> Any:
    """Return a urllib3 PoolManager that counts the connections it makes, for :func:`again_if_kept`."""
    pools.pool_classes_by_scheme = {
        scheme: _counting(pool_class) for scheme, pool_class in pools.pool_classes_by_scheme.items()
    }
    return pools


def again_if_kept(request: Callable[[], Any]) -> Any:
    """Return what ``request`` returns: a GET by a PoolManager of :func:`count_connections`.

    It is called again for each kept connection that the other end has closed before any byte of an answer.
    Such a connection has left its pool by then, so this ends. Raises what ``request`` raises, also a closed
    connection where it was made for this request.
    """
    while True:
        before = _made.count
        try:
            return request()
        except urllib3.exceptions.HTTPError as error:
            if _made.count != before or not _closed(error):
                raise


def _closed(error: urllib3.exceptions.HTTPError) -> bool:
    wraps = isinstance(error, urllib3.exceptions.ProtocolError | urllib3.exceptions.SSLError)
    ends = ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError
    return wraps and any(isinstance(cause, ends) for cause in error.args)


def _counting(pool_class: Any) -> Any:
    made_of: Any = pool_class.ConnectionCls

    def connect(self: Any) -> None:
        _made.count += 1
        made_of.connect(self)

    connection_class = type(made_of.__name__, (made_of,), {"connect": connect})
    return type(pool_class.__name__, (pool_class,), {"ConnectionCls": connection_class})
