"""Faults of an API server connection, each in one line: what is wrong, and the remedy."""

from __future__ import annotations

import ssl

import urllib3.exceptions as http

from agent.kube.model import Kind
from agent.kube.wire import Status

PATHS = {
    Kind.POD: "/api/v1/pods",
    Kind.NAMESPACE: "/api/v1/namespaces",
    Kind.NODE: "/api/v1/nodes",
    Kind.POLICY: "/apis/networking.k8s.io/v1/networkpolicies",
}
"""Where an API server lists and watches each kind."""


class RequestFailedError(Exception):
    """An API server refused a request. ``retry_after`` is in seconds, 0.0 when it did not say."""

    def __init__(self, code: int, status: Status, retry_after: float = 0.0) -> None:
        super().__init__(f"HTTP {code}: {status.message or status.reason}")
        self.code = code
        self.status = status
        self.retry_after = retry_after


def refusal(kind: Kind, verb: str, error: RequestFailedError) -> str:
    """Name a refused request."""
    resource = PATHS[kind].rpartition("/")[2]
    group = "networking.k8s.io" if kind is Kind.POLICY else ""
    said = error.status.message or error.status.reason or "no reason given"
    if error.code == 403:
        return (
            f"forbidden to {verb} {resource}: {said}; grant the agent's user list and watch on {resource} "
            f'of API group "{group}" in a ClusterRole and bind it'
        )
    if error.code == 401:
        return f"not authorized to {verb} {resource}: {said}; renew the token or certificate of the agent"
    if error.code == 404:
        return f"the server has no {resource} at {PATHS[kind]}; check that the address is an API server's"
    if error.code == 429:
        return f"the API server limits requests ({said}); retrying"
    return f"the API server failed to {verb} {resource}: HTTP {error.code}: {said}; retrying"


def failure(error: Exception) -> str:
    """Name a failure to reach the API server."""
    if isinstance(error, http.NewConnectionError | http.NameResolutionError):
        text = str(error.__cause__ or error)
        if isinstance(error, http.NameResolutionError):
            return f"cannot resolve the API server's name: {text}; check the node's DNS and the server's name"
        return f"cannot connect to the API server: {text}; check that it runs and its address and port"
    if isinstance(error, http.ConnectTimeoutError):
        return "no answer from the API server's address; check routes and firewalls on the way to it"
    if isinstance(error, http.SSLError | ssl.SSLError):
        return f"TLS to the API server failed: {error}; check the CA, the name, the certificates"
    if isinstance(error, http.ProxyError):
        return f"the proxy to the API server failed: {error}; check HTTPS_PROXY, NO_PROXY and proxy-url"
    if isinstance(error, http.TimeoutError):
        return "the API server fell silent; check its load and the network on the way to it"
    if isinstance(error, http.HTTPError | OSError):
        return f"the connection to the API server broke: {error}; retrying"
    return " ".join(str(error).split()) or type(error).__name__
