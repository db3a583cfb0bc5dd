"""The connection to an API server: the kubernetes package's configuration and its urllib3 transport.

Importing the package takes a tenth of a second, so it waits until a connection is wanted.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import urllib3

from agent.sources.apiserver.kubeconfig import SERVICE_ACCOUNT, USUAL, ConfigurationError, check_files
from agent.sources.apiserver.package import load
from agent.sources.apiserver.reuse import again_if_kept, count_connections

KEEPALIVE_SECONDS = 15
"""How long a connection may be dead, its other end not acknowledging, before the kernel ends it."""

CONNECT_SECONDS = 5.0
"""How long a connection may take to be made. A first packet that is lost is sent again after 1 s, then 2."""

# A watch sends nothing, so nothing of it goes unacknowledged and TCP alone would never notice a peer
# that is gone. Keepalive asks after 5 s of silence and then every 2 s; when nothing was acknowledged for 15 s
# in all, the connection is reset. The user timeout holds a request that was sent to the same limit.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, KEEPALIVE_SECONDS * 1000),
]


def is_of_configuration(error: Exception) -> bool:
    """Whether what failed may be mended by reading the configuration anew: a file, the CA, a certificate."""
    return isinstance(error, ConfigurationError | urllib3.exceptions.SSLError | ssl.SSLError)


class Getting(Protocol):
    """What lists and watches need of a connection: GETs, and to begin anew."""

    @property
    def address(self) -> str:
        """As :attr:`Connection.address` says."""
        ...

    def get(self, path: str, query: Mapping[str, str], read_seconds: float) -> urllib3.BaseHTTPResponse:
        """As :meth:`Connection.get` does."""
        ...

    def reset(self) -> None:
        """As :meth:`Connection.reset` does."""
        ...


class Connection:
    """Requests to one API server, from any thread.

    The configuration is read when first used and again after ``reset``. Bearer tokens are renewed as
    the package renews them: a service account's file is read again every minute, an exec plugin is run
    again when its credential has expired. Client certificates are read at each new TCP connection.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._lock = threading.Lock()
        self._configuration: Any = None
        self._pool: Any = None
        self._anew: Any = None
        """A pool whose connections are used once."""

    @property
    def address(self) -> str:
        """The server's address as configured, "" before it is read."""
        configuration = self._configuration
        return str(configuration.host) if configuration is not None else ""

    def get(
        self,
        path: str,
        query: Mapping[str, str],
        read_seconds: float,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        anew: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Send a GET and return the response, its body not yet read; the caller releases it.

        ``read_seconds`` limits each wait for bytes. ``anew``: on a new connection, so that the answer is from
        where the address leads now. Else it may be a kept one; where the server has closed that, the GET is
        sent again. Raises ConfigurationError, or urllib3.HTTPError when there is no answer.
        """
        return self._request("GET", path, {"fields": query}, read_seconds, connect_seconds, anew=anew)

    def post(self, path: str, body: bytes, read_seconds: float) -> urllib3.BaseHTTPResponse:
        """Send a POST of JSON and return the response, as :meth:`get` does.

        For reviews only: it may be sent twice, as a GET may, which is harmless where nothing is created.
        """
        return self._request("POST", path, {"body": body}, read_seconds, CONNECT_SECONDS, anew=False)

    def _request(
        self,
        method: str,
        path: str,
        given: Mapping[str, Any],
        read_seconds: float,
        connect_seconds: float,
        *,
        anew: bool,
    ) -> urllib3.BaseHTTPResponse:
        with self._lock:
            if self._pool is None:
                self._configuration = _load(self._kubeconfig, self._context)
                self._pool = _pool(self._configuration)
            if anew and self._anew is None:
                self._anew = _pool(self._configuration)
            pool = self._anew if anew else self._pool
            host, headers = self._configuration.host, self._headers()
        if anew:
            # Not every server that closes a connection says so: one may seem to be of use still.
            pool.clear()
            headers["Connection"] = "close"
        if "body" in given:
            headers["Content-Type"] = "application/json"
        response: urllib3.BaseHTTPResponse = again_if_kept(
            lambda: pool.request(
                method,
                host.rstrip("/") + path,
                headers=headers,
                **given,
                preload_content=False,
                retries=False,
                timeout=urllib3.Timeout(connect=connect_seconds, read=read_seconds),
            )
        )
        return response

    def reset(self) -> None:
        """Read the configuration and the credentials anew at the next request."""
        with self._lock:
            pools = [pool for pool in (self._pool, self._anew) if pool is not None]
            self._pool = self._anew = None
        for pool in pools:
            with contextlib.suppress(Exception):
                pool.clear()

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "netpol-agent"}
        try:
            # Asking is what renews the token.
            bearer = self._configuration.auth_settings().get("BearerToken")
        except Exception as error:
            raise ConfigurationError(f"no credential: {error}; check the token or exec plugin") from error
        if bearer and bearer["value"]:
            headers["Authorization"] = token = bearer["value"].strip()
            if not (token.isascii() and token.isprintable()):
                raise ConfigurationError(
                    "no credential: the token is more than one ASCII line; write it anew"
                )
        return headers


def _pool(configuration: Any) -> Any:
    rest = load("kubernetes.client.rest")
    configuration.socket_options = _SOCKET_OPTIONS
    try:
        return count_connections(rest.RESTClientObject(configuration).pool_manager)
    except Exception as error:
        raise ConfigurationError(f"{error}; check the server and proxy of the configuration") from error


def _load(kubeconfig: str | None, context: str | None) -> Any:
    """Return the configuration: the kubeconfig named, else the pod's own, else the user's."""
    configuration = load("kubernetes.client.configuration").Configuration()
    named = kubeconfig or os.environ.get("KUBECONFIG")
    in_cluster = bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and SERVICE_ACCOUNT.exists()
    try:
        if kubeconfig is None and context is None and in_cluster:
            in_pod = load("kubernetes.config.incluster_config")
            in_pod.load_incluster_config(client_configuration=configuration)
            return configuration
        path = named or USUAL
        check_files(path, context, named is not None)
        load("kubernetes.config.kube_config").load_kube_config(
            config_file=path,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"no usable API server configuration: {error}") from None
    # The package raises many types on a malformed file, and an exec plugin may do anything.
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        where, remedy = f"kubeconfig {named or USUAL}", "correct the file, or name another with --kubeconfig"
        if kubeconfig is None and context is None and in_cluster:
            where, remedy = "the pod's service account", "mount its token and CA, or set --kubeconfig"
        raise ConfigurationError(f"no usable API server configuration: {where}: {why}; {remedy}") from error
    return configuration
