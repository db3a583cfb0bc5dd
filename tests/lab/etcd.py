"""Writing objects straight into the API server's etcd, through etcd's own gateway from HTTP to gRPC.

So a cluster of 100,000 pods is there in seconds, and a stream of events uses little of a small machine. The
API server reads what it finds, JSON too, and tells its watchers of every change as if it had made it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
from collections.abc import Iterable, Sequence
from types import TracebackType

import msgspec

from tests.patience import PATIENCE

PORT = 2379
PUTS = 128
"""How much one transaction may hold (etcd's --max-txn-ops)."""

_encode = msgspec.json.Encoder().encode


class Etcd:
    """A connection to the etcd of the namespace in which it is made; a context manager."""

    def __init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        self._connection.connect()

    def __enter__(self) -> Etcd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def put(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Write at most ``PUTS`` objects, in one transaction. Raises OSError when etcd does not take them."""
        puts = [
            {"requestPut": {"key": _base64(key.encode()), "value": _base64(value)}} for key, value in objects
        ]
        self._ask("txn", {"success": puts})

    def compact(self, revision: int) -> None:
        """Forget what was before a revision, as API servers have it do every five minutes. Raises OSError."""
        self._ask("compaction", {"revision": revision, "physical": True})

    def _ask(self, what: str, request: object) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._connection.close)
            self._connection.request("POST", f"/v3/kv/{what}", _encode(request))
            response = self._connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise OSError(f"etcd answers {response.status}: {answer[:500]!r}")
            stack.pop_all()

    def fill(self, objects: Iterable[tuple[str, bytes]]) -> int:
        """Write any number of objects; return how many."""
        count = 0
        rest = iter(objects)
        while some := list(itertools.islice(rest, PUTS)):
            self.put(some)
            count += len(some)
        return count


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
