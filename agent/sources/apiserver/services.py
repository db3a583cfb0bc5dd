"""Services and the pods behind them, read from the API server when somebody asks; nothing of it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec
import urllib3

from agent.decoding import UndecodableError, decode
from agent.kube.address import lenient_address
from agent.kube.model import Key
from agent.net import address_text
from agent.sources.apiserver.answers import ExpiredError, raise_for
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.faults import RequestFailedError, failure
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.sources.apiserver.proof import UnprovenError
from agent.sources.services import Backend, FoundService, ServicePort, ServicesError
from agent.words import one_line

_READ_SECONDS = 3.0
"""The health port gives an answer five seconds."""
_PAGE = 500
_PAGES = 10
"""Pages of Services that are looked through for an address that no field selector finds."""

T = TypeVar("T")


class Services:
    """Asks an API server, for any thread. ``seconds`` limits each wait for it."""

    def __init__(self, connection: Connection, seconds: float = _READ_SECONDS) -> None:
        self._connection = connection
        self._seconds = seconds

    def named(self, key: Key) -> FoundService | None:
        """Return a Service by its name; None where there is none. Raises ServicesError."""
        try:
            found = self._get(_path(key), {}, _Service)
        except _NotFoundError:
            return None
        return self._found(found)

    def at(self, address: bytes) -> FoundService | None:
        """Return the Service that has a ClusterIP; None where none has. Raises ServicesError."""
        service = self._at(address)
        return None if service is None else self._found(service)

    def name_at(self, address: bytes) -> Key | None:
        """Return which Service has a ClusterIP; None where none has. Raises ServicesError."""
        service = self._at(address)
        return None if service is None else Key(service.metadata.namespace, service.metadata.name)

    def _at(self, address: bytes) -> _Service | None:
        text = address_text(address)
        selected = self._get(_SERVICES, {"fieldSelector": f"spec.clusterIP={text}"}, _ServiceList)
        for one in selected.items:
            return one
        # The second address of a Service with two families is in no field that can be selected by.
        query = {"limit": str(_PAGE)}
        for _ in range(_PAGES):
            page = self._get(_SERVICES, query, _ServiceList)
            for one in page.items:
                if address in _addresses(one):
                    return one
            if not page.metadata.continuation:
                break
            query["continue"] = page.metadata.continuation
        return None

    def _found(self, service: _Service) -> FoundService:
        meta = service.metadata
        key = Key(meta.namespace, meta.name)
        path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(key.namespace, safe='')}/endpointslices"
        selector = f"kubernetes.io/service-name={key.name}"
        slices = self._get(path, {"labelSelector": selector}, _SliceList)
        ports = tuple(ServicePort(p.name, p.protocol, p.port) for p in service.spec.ports or ())
        backends = tuple(backend for one in slices.items for backend in _backends(key.namespace, one))
        return FoundService(key, _addresses(service), ports, backends)

    def _get(self, path: str, query: Mapping[str, str], kind: type[T]) -> T:
        try:
            response = self._connection.get(path, query, self._seconds, connect_seconds=self._seconds)
            try:
                if response.status == 404:
                    raise _NotFoundError
                raise_for(response)
                body: bytes = response.read()
            finally:
                response.release_conn()
            return decode(body, kind)
        except RequestFailedError as error:
            raise ServicesError(_refusal(path, error)) from None
        except (UndecodableError, ExpiredError) as error:
            raise ServicesError(f"the API server's answer about {path} cannot be read: {error}") from None
        except (urllib3.exceptions.HTTPError, OSError, ConfigurationError, UnprovenError) as error:
            raise ServicesError(failure(error, self._connection.address)) from None


def _refusal(path: str, error: RequestFailedError) -> str:
    said = one_line(error.status.message or error.status.reason)
    if error.code == 403:
        return (
            f"Services cannot be read: {said}; apply the component explain-services, which gives the agent "
            "that right, or ask about a pod behind the Service"
        )
    return f"Services cannot be read: {path}: HTTP {error.code}: {said}"


class _NotFoundError(Exception):
    """The server has no such object."""


_SERVICES = "/api/v1/services"


def _path(key: Key) -> str:
    return f"/api/v1/namespaces/{quote(key.namespace, safe='')}/services/{quote(key.name, safe='')}"


# --- What is read of the objects --------------------------------------------------------------------------


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class _ListMeta(msgspec.Struct, frozen=True, rename={"continuation": "continue"}):
    continuation: str = ""


class _Port(msgspec.Struct, frozen=True):
    name: str = ""
    protocol: str = "TCP"
    port: int = 0


class _ServiceSpec(msgspec.Struct, frozen=True, rename="camel"):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")
    ports: tuple[_Port, ...] | None = None


class _Service(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _ServiceSpec = _ServiceSpec()


class _ServiceList(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: tuple[_Service, ...] = ()


class _Reference(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None


class _Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: tuple[str, ...] = ()
    conditions: _Conditions = _Conditions()
    target_ref: _Reference | None = None


class _SlicePort(msgspec.Struct, frozen=True):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class _Slice(msgspec.Struct, frozen=True):
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_SlicePort, ...] | None = None


class _SliceList(msgspec.Struct, frozen=True):
    items: tuple[_Slice, ...] = ()


def _addresses(service: _Service) -> tuple[bytes, ...]:
    texts = dict.fromkeys((service.spec.cluster_ip, *(service.spec.cluster_ips or ())))
    return tuple(address for text in texts if (address := lenient_address(text)) is not None)


def _backends(namespace: str, found: _Slice) -> Iterator[Backend]:
    ports = {
        (port.name or "", port.protocol or "TCP"): port.port
        for port in found.ports or ()
        if port.port is not None
    }
    for endpoint in found.endpoints or ():
        target = endpoint.target_ref
        pod = None
        if target is not None and target.kind == "Pod":
            pod = Key(target.namespace or namespace, target.name)
        for text in endpoint.addresses:
            if (address := lenient_address(text)) is not None:
                # Unset means ready (EndpointConditions, discovery.k8s.io/v1).
                yield Backend(pod, address, endpoint.conditions.ready is not False, ports)
