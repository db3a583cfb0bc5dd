"""One pod, asked for by its name: the node runs it, and the watch has not told of it yet."""

from __future__ import annotations

from urllib.parse import quote

import urllib3

from agent.kube.events import Upsert
from agent.kube.model import Key, Kind, Pod
from agent.kube.wire import read_stored
from agent.sources.apiserver.answers import ExpiredError, raise_for
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.faults import RequestFailedError, expired, failure
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.sources.apiserver.proof import UnprovenError
from agent.words import one_line

_SECONDS = 3.0


class AskError(Exception):
    """The API server did not answer; the message says why, and what to do."""


class OnePod:
    """Asks an API server for single pods, on one thread. Its connection is its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, key: Key) -> Pod | None:
        """Return a pod as it is now; None: there is none of that name. Raises AskError."""
        path = f"/api/v1/namespaces/{quote(key.namespace, safe='')}/pods/{quote(key.name, safe='')}"
        try:
            response = self._connection.get(path, {}, _SECONDS, connect_seconds=_SECONDS)
            try:
                raise_for(response)
                body: bytes = response.read()
            finally:
                response.release_conn()
        except RequestFailedError as error:
            # A server that does not know the path says 404 as well, but not that a pod is not found.
            if error.code == 404 and error.status.reason == "NotFound":
                return None
            if error.code in (401, 403):
                self._connection.reset()
            raise AskError(_refusal(error)) from None
        except ExpiredError:
            raise AskError(expired(Kind.POD, "get")) from None
        except (urllib3.exceptions.HTTPError, OSError, ConfigurationError, UnprovenError) as error:
            raise AskError(failure(error, self._connection.address)) from None
        read = read_stored(Kind.POD, body)
        found = read.object if isinstance(read, Upsert) else None
        if not isinstance(found, Pod) or found.key != key or not found.uid:
            raise AskError(f"the API server gave an answer about pod {key} that cannot be read; retrying")
        return found


def _refusal(error: RequestFailedError) -> str:
    said = one_line(error.status.message or error.status.reason) or "no reason given"
    if error.code == 403:
        return (
            f"forbidden to get pods: {said}; grant the agent's user get on pods in a ClusterRole and bind it"
        )
    return f"the API server failed to get pods: HTTP {error.code}: {said}; retrying"
