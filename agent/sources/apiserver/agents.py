"""The agents of a cluster, found and asked by way of its API server: for ``--cluster``."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import urllib3

from agent.decoding import UndecodableError, decode
from agent.sources.apiserver.answers import ExpiredError, raise_for
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.faults import RequestFailedError, failure
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.sources.apiserver.proof import UnprovenError
from agent.words import one_line

LABEL = "app.kubernetes.io/name=netpol-agent"
"""What the agents' pods have, as ``deploy/`` makes them."""
_PAGE = 500
_READ_SECONDS = 15.0
_AT_ONCE = 8
"""Agents that are asked at the same time."""
_MOST_BYTES = 64 << 20


class AgentsError(Exception):
    """The agents cannot be found or asked; the text says why, and which right is lacking."""


class AgentPod(NamedTuple):
    """The pod of an agent. ``ready`` is what its kubelet says, ``restarts`` how often it was started anew."""

    name: str
    node: str
    ready: bool
    restarts: int


class Told(NamedTuple):
    """What an agent answered, as served, or why there is no answer."""

    pod: AgentPod
    body: bytes = b""
    error: str = ""


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Container(msgspec.Struct, frozen=True, rename={"restarts": "restartCount"}):
    restarts: int = 0


class _Status(msgspec.Struct, frozen=True, rename={"containers": "containerStatuses"}):
    conditions: tuple[_Condition, ...] | None = None
    containers: tuple[_Container, ...] | None = None


class _Spec(msgspec.Struct, frozen=True, rename={"node": "nodeName"}):
    node: str = ""


class _Meta(msgspec.Struct, frozen=True, rename={"continuation": "continue"}):
    name: str = ""
    continuation: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()
    status: _Status = _Status()


class _List(msgspec.Struct, frozen=True):
    items: tuple[_Object, ...] | None = None
    metadata: _Meta = _Meta()


def find(connection: Connection, namespace: str) -> list[AgentPod]:
    """Return the pods of the agents of a namespace, by node. Raises AgentsError."""
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
    what = f"list pods in namespace {namespace}"
    found = _list(connection, path, {"labelSelector": LABEL}, what)
    return sorted((_pod(one) for one in found), key=lambda pod: (pod.node, pod.name))


def nodes(connection: Connection) -> list[str]:
    """Return the names of the cluster's nodes. Raises AgentsError."""
    return sorted(one.metadata.name for one in _list(connection, "/api/v1/nodes", {}, "list nodes"))


def ask_all(
    connection: Connection,
    namespace: str,
    pods: list[AgentPod],
    port: int,
    what: str = "status",
    query: Mapping[str, str] = MappingProxyType({}),
) -> list[Told]:
    """Ask agents through the API server's proxy to their pods, in the order of the pods.

    ``what``: the path on their status port, without its first slash.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda pod: _ask(connection, namespace, pod, port, what, query), pods))


def _ask(
    connection: Connection, namespace: str, pod: AgentPod, port: int, what: str, query: Mapping[str, str]
) -> Told:
    name = f"{quote(pod.name, safe='')}:{port}"
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{name}/proxy/{what}"
    try:
        response = connection.get(path, dict(query), _READ_SECONDS)
        try:
            raise_for(response)
            return Told(pod, response.read(_MOST_BYTES))
        finally:
            response.release_conn()
    except RequestFailedError as error:
        said = one_line(error.status.message or error.status.reason) or f"HTTP {error.code}"
        if error.code in (401, 403):
            right = f"the right to get pods/proxy in namespace {namespace} is lacking"
            return Told(pod, error=f"{right}: {said}")
        if error.code in (500, 502, 503, 504):
            return Told(pod, error=_unreached(namespace, pod, port, said))
        return Told(pod, error=said)
    except (urllib3.exceptions.HTTPError, OSError, UnprovenError, ExpiredError) as error:
        return Told(pod, error=failure(error, connection.address))


def _unreached(namespace: str, pod: AgentPod, port: int, said: str) -> str:
    """Say what to do where the API server does not reach an agent: its kubelet knows whether it runs."""
    if pod.ready:
        remedy = f"its port {port} answers on --health-address only: set that to an address of the node"
        return f"cannot be reached through the API server ({remedy}): {said}"
    log = f"kubectl -n {namespace} logs {pod.name} --previous"
    return (
        f"the agent does not answer, and its kubelet says that it is not ready; the rules that it wrote last "
        f"stay in force, and changes do not reach this node; look at: {log}: {said}"
    )


def _list(connection: Connection, path: str, query: dict[str, str], what: str) -> list[_Object]:
    """List objects. ``what``: in words, with the verb first, for what is said where it is refused."""
    found: list[_Object] = []
    query = {**query, "limit": str(_PAGE)}
    while True:
        try:
            response = connection.get(path, query, _READ_SECONDS)
            try:
                raise_for(response)
                page = decode(response.read(), _List)
            finally:
                response.release_conn()
        except RequestFailedError as error:
            said = one_line(error.status.message or error.status.reason) or f"HTTP {error.code}"
            lacking = f"the right to {what} is lacking" if error.code in (401, 403) else f"cannot {what}"
            raise AgentsError(f"{lacking}: {said}") from None
        except (UndecodableError, ExpiredError) as error:
            raise AgentsError(f"cannot {what}: the answer cannot be read: {error}") from None
        except (urllib3.exceptions.HTTPError, OSError, ConfigurationError, UnprovenError) as error:
            raise AgentsError(failure(error, connection.address)) from None
        found += page.items or ()
        if not page.metadata.continuation:
            return found
        query["continue"] = page.metadata.continuation


def _pod(found: _Object) -> AgentPod:
    conditions = found.status.conditions or ()
    ready = any(one.type == "Ready" and one.status == "True" for one in conditions)
    restarts = sum(one.restarts for one in found.status.containers or ())
    return AgentPod(found.metadata.name, found.spec.node, ready, restarts)
