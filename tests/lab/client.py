"""A small client of the API server for tests, which connects from inside a namespace."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab.netns import Netns
from tests.patience import PATIENCE

Json = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"


class Raw(str):
    """JSON that is sent as it is: it may be nested more deeply than Python writes it."""

    __slots__ = ()


class ApiError(Exception):
    """The API server refused a request; ``status`` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


IDEMPOTENT = ("GET", "PUT", "PATCH", "DELETE")
"""What may be sent again (RFC 9110 section 9.2.2); of patches there are only merge patches here."""


def _closed(connection: http.client.HTTPSConnection) -> bool:
    """Whether a connection has ended: between two answers a server sends nothing else unasked."""
    sock: socket.socket | None = connection.sock
    return sock is None or bool(select.select([sock], [], [], 0)[0])


class Client:
    """One connection, opened in ``netns`` and kept, for one thread; :meth:`another` makes one for another."""

    def __init__(self, netns: Netns, url: str, certificate: Path, token: str) -> None:
        self._netns = netns
        self._url = url
        self._certificate = certificate
        self._token = token
        self._connection: http.client.HTTPSConnection | None = None
        self._busy = threading.Lock()
        self.written: dict[str, int] = {}
        """The newest resourceVersion that was written through this client, by kind."""

    def another(self) -> Client:
        """Return a client of the same server with a connection of its own."""
        return Client(self._netns, self._url, self._certificate, self._token)

    def close(self) -> None:
        """Close the connection, waking who reads its lines; the next request opens another."""
        if self._connection is not None:
            sock: socket.socket | None = self._connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):  # the server has closed it
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPSConnection:
        if self._connection is None:
            where = urllib.parse.urlsplit(self._url)
            context = ssl.create_default_context(cafile=str(self._certificate))
            connection = http.client.HTTPSConnection(
                where.hostname or "", where.port, context=context, timeout=PATIENCE
            )
            with self._netns.entered():
                connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = connection
        return self._connection

    def text(self, method: str, path: str, body: object = None, content: str = "application/json") -> str:
        """Send one request; return the answer's body.

        Raises ApiError; OSError when there is no server; RuntimeError while another thread sends one.
        """
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("two threads use one client at a time: take another()")
        data = None if body is None else (body if isinstance(body, Raw) else json.dumps(body)).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content}
        try:
            response = self._answered(method, path, data, headers)
            answer = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise error if isinstance(error, OSError) else OSError(str(error)) from error
        finally:
            self._busy.release()
        if response.status >= 400:
            raise ApiError(response.status, answer)
        return answer

    def _answered(
        self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Return the beginning of the answer to a request.

        The server may have closed a connection that was kept, as when it was started again. The request is
        then sent on another one (RFC 9112 section 9.3.1).
        """
        if self._connection is not None and _closed(self._connection):
            self.close()
        kept = self._connection is not None
        try:
            connection = self._connect()
            connection.request(method, path, data, headers or {})
            return connection.getresponse()
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self.close()
            if not kept or method not in IDEMPOTENT:
                raise
        return self._answered(method, path, data, headers)

    def encoded(self, path: str, accept: str) -> bytes:
        """Send a GET; return the answer in another encoding than JSON, as it is. Raises ApiError."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": accept}
        response = self._answered("GET", path, headers=headers)
        body = response.read()
        if response.status >= 400:
            raise ApiError(response.status, body.decode(errors="replace"))
        return body

    def lines(self, path: str) -> Iterator[bytes]:
        """Send a GET and yield the answer's lines as they come, as those of a watch: until :meth:`close`.

        Raises ApiError when it is refused. The connection is of no other use meanwhile.
        """
        response = self._answered("GET", path, headers={"Authorization": f"Bearer {self._token}"})
        if response.status >= 400:
            raise ApiError(response.status, response.read().decode())
        while line := response.readline():
            yield line

    def get(self, path: str) -> Json:
        return self._json("GET", path)

    def post(self, path: str, body: object) -> Json:
        return self._json("POST", path, body)

    def put(self, path: str, body: object) -> Json:
        return self._json("PUT", path, body)

    def patch(self, path: str, body: object) -> Json:
        """Apply a JSON merge patch (RFC 7386)."""
        return self._json("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str) -> None:
        """Delete at once; what is not there is no error."""
        try:
            self._json("DELETE", path, {"gracePeriodSeconds": 0})
        except ApiError as error:
            if error.status != 404:
                raise

    def _json(self, method: str, path: str, body: object = None, content: str = "application/json") -> Json:
        answer: Json = json.loads(self.text(method, path, body, content))
        # A list has a version of its own, which none of its objects need have.
        for item in answer.get("items", [answer]) if method != "GET" else ():
            version = item.get("metadata", {}).get("resourceVersion")
            kind = answer["kind"].removesuffix("List")
            if version:
                self.written[kind] = max(self.written.get(kind, 0), int(version))
        return answer

    # Namespaces

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        self.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})

    def label_namespace(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Set labels; None removes one."""
        self.patch(f"/api/v1/namespaces/{name}", {"metadata": {"labels": dict(labels)}})

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace and what tests put in it, as the namespace controller would."""
        self.delete_policies(name)
        with contextlib.suppress(ApiError):
            self.text("DELETE", f"/api/v1/namespaces/{name}/pods?gracePeriodSeconds=0")
        self.delete(f"/api/v1/namespaces/{name}")
        with contextlib.suppress(ApiError):
            namespace = self.get(f"/api/v1/namespaces/{name}")
            namespace["spec"] = {"finalizers": []}
            self.put(f"/api/v1/namespaces/{name}/finalize", namespace)

    # Pods

    def create_pod(
        self,
        namespace: str,
        name: str,
        *,
        node: str,
        addresses: Sequence[str],
        labels: Mapping[str, str] | None = None,
        ports: Sequence[tuple[str, str, int]] = (),
        **spec: Any,
    ) -> Json:
        """Create a pod on a node and, unless ``addresses`` is empty, report it running with them.

        ``ports`` are (name, protocol, number).
        """
        container = {
            "name": "main",
            "image": "none",
            "ports": [{"name": n, "protocol": p, "containerPort": number} for n, p, number in ports],
        }
        created = self.post(
            f"/api/v1/namespaces/{namespace}/pods",
            {
                "metadata": {"name": name, "labels": dict(labels or {})},
                "spec": {"nodeName": node, "containers": [container], **spec},
            },
        )
        if not addresses:
            return created
        started = created["metadata"]["creationTimestamp"]
        return self.set_pod_status(
            namespace,
            name,
            {
                "phase": "Running",
                "podIP": addresses[0],
                "podIPs": [{"ip": address} for address in addresses],
                "startTime": started,
            },
        )

    def set_pod_status(self, namespace: str, name: str, status: Json) -> Json:
        return self.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status})

    def label_pod(self, namespace: str, name: str, labels: Mapping[str, str | None]) -> None:
        """Set labels; None removes one."""
        self.patch(f"/api/v1/namespaces/{namespace}/pods/{name}", {"metadata": {"labels": dict(labels)}})

    def delete_pod(self, namespace: str, name: str) -> None:
        self.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")

    # Nodes

    def create_node(self, name: str, addresses: Sequence[str], cidrs: Sequence[str]) -> None:
        self.post(
            "/api/v1/nodes",
            {"metadata": {"name": name}, "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)}},
        )
        self.patch(
            f"/api/v1/nodes/{name}/status",
            {"status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]}},
        )

    def delete_node(self, name: str) -> None:
        self.delete(f"/api/v1/nodes/{name}")

    # Policies

    def create_policy(self, namespace: str, name: str, spec: Json) -> None:
        self.post(_policies(namespace), {"metadata": {"name": name}, "spec": spec})

    def replace_policy(self, namespace: str, name: str, spec: Json) -> None:
        """Give a policy another spec, whole."""
        path = f"{_policies(namespace)}/{name}"
        current = self.get(path)
        self.put(path, {**current, "spec": spec})

    def delete_policy(self, namespace: str, name: str) -> None:
        self.delete(f"{_policies(namespace)}/{name}")

    def delete_policies(self, namespace: str) -> None:
        self.delete(_policies(namespace))


def _policies(namespace: str) -> str:
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
