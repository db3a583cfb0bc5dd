"""Faults of an API server connection, each in one line: what is wrong, where, and the remedy."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl

import urllib3.exceptions as http_errors

from agent.kube.model import Kind
from agent.kube.wire import Status
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.sources.apiserver.proof import UnprovenError
from agent.words import one_line

PATHS = {
    Kind.POD: "/api/v1/pods",
    Kind.NAMESPACE: "/api/v1/namespaces",
    Kind.NODE: "/api/v1/nodes",
    Kind.POLICY: "/apis/networking.k8s.io/v1/networkpolicies",
}
"""Where an API server lists and watches each kind."""

_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection aborted",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.ETIMEDOUT: "timed out",
    errno.EADDRNOTAVAIL: "this node has no address or port left to connect from",
    errno.EACCES: "not permitted by this node",
    errno.EPERM: "not permitted by this node's firewall",
    errno.EMFILE: "this agent has too many files open",
}


_ENDED = (http_errors.IncompleteRead, http.client.IncompleteRead, http_errors.InvalidChunkLength)


class RequestFailedError(Exception):
    """An API server refused a request. ``retry_after`` is in seconds, 0.0 when it did not say.

    ``of`` is what was asked for, where that is not what its caller thinks: a kind, and the verb.
    """

    def __init__(
        self, code: int, status: Status, retry_after: float = 0.0, of: tuple[Kind, str] | None = None
    ) -> None:
        super().__init__(f"HTTP {code}: {one_line(status.message or status.reason)}")
        self.code = code
        self.status = status
        self.retry_after = retry_after
        self.of = of


def resource(kind: Kind) -> str:
    """Return what the API calls the objects of a kind: ``networkpolicies``."""
    return PATHS[kind].rpartition("/")[2]


def refusal(kind: Kind, verb: str, error: RequestFailedError) -> str:
    """Name a refused request."""
    kind, verb = error.of or (kind, verb)
    what = resource(kind)
    group = "networking.k8s.io" if kind is Kind.POLICY else ""
    said = one_line(error.status.message or error.status.reason) or "no reason given"
    if error.code == 403:
        return (
            f"forbidden to {verb} {what}: {said}; grant the agent's user list and watch on {what} "
            f'of API group "{group}" in a ClusterRole and bind it'
        )
    if error.code == 401:
        return (
            f"not authorized to {verb} {what} (401): {said}; renew the token or certificate of the agent: "
            "it is read again each second"
        )
    if error.code == 404:
        return f"the server has no {what} at {PATHS[kind]}; check that the address is an API server's"
    if error.code == 429:
        return f"the API server limits requests (429: {said}); retrying"
    return f"the API server failed to {verb} {what}: HTTP {error.code}: {said}; retrying"


def expired(kind: Kind, verb: str) -> str:
    """Name a request that names no version and was answered with 410: one that is too old."""
    return f"the API server failed to {verb} {resource(kind)}: HTTP 410; retrying"


def failure(error: Exception, address: str = "") -> str:
    """Name a failure to get an answer that can be used. ``address`` is the server's, as configured."""
    server = f"the API server at {address}" if address else "the API server"
    if isinstance(error, ConfigurationError):
        return str(error)
    if isinstance(error, UnprovenError):
        return f"{server} gave an answer that is not used: {error}; check what answers there; retrying"
    if isinstance(error, http_errors.NameResolutionError):
        return f"cannot resolve the name of {server}; check the node's DNS and the server's name"
    if isinstance(error, http_errors.NewConnectionError):
        return f"cannot connect to {server}: {_reason(error)}; check that it runs, and its address and port"
    if isinstance(error, http_errors.ConnectTimeoutError):
        return f"no answer from the address of {server}: timed out; check routes and firewalls on the way"
    if isinstance(error, http_errors.ProxyError):
        return f"the proxy to {server} failed: {_reason(error)}; check HTTPS_PROXY, NO_PROXY and proxy-url"
    if isinstance(error, http_errors.SSLError | ssl.SSLError):
        return (
            f"TLS to {server} failed: {_reason(error)}; check the CA of the configuration, the server's "
            "name, the certificates, and this node's clock"
        )
    if isinstance(error, http_errors.TimeoutError | TimeoutError):
        return f"{server} fell silent; check its load and the network on the way to it"
    if isinstance(error, http_errors.HTTPError | OSError):
        return f"the connection to {server} broke: {_reason(error)}; retrying"
    return f"the agent met a defect of its own ({type(error).__name__}); report it with its log; retrying"


def _reason(error: BaseException) -> str:
    """Say in plain words why a connection failed: the first of the causes that can be told."""
    for cause in _causes(error):
        said = _plain(cause)
        if said:
            return said
    return "it ended unexpectedly"


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it was made of, the innermost first: urllib3 wraps others in many ways."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return found[::-1]


def _plain(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the other end closed the connection"
    if isinstance(error, ssl.SSLError):
        words = (error.reason or "").replace("_", " ").lower()
        if words in ("wrong version number", "unknown protocol", "http request", "record layer failure"):
            return "the other end does not speak TLS"
        return words
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the other end closed the connection without an answer"
    if isinstance(error, _ENDED):
        return "the answer ended before its end"
    if isinstance(error, http.client.BadStatusLine | http.client.HTTPException):
        return "the answer is not HTTP"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.errno:
        return _REASONS.get(error.errno) or os.strerror(error.errno).lower()
    return ""
