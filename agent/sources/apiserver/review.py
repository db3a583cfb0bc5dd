"""Asks the API server who a client is, and whether that user may do something: the way of kube-rbac-proxy.

A TokenReview (authentication.k8s.io/v1) tells whose a bearer token is. A SubjectAccessReview
(authorization.k8s.io/v1) tells whether that user may ``get`` a path that is no resource.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any

import urllib3

from agent.decoding import UndecodableError, decode
from agent.kube.wire import decode_status
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.faults import failure
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.words import one_line

IDENTITY_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

READ_SECONDS = 3.0
"""How long each of the two answers may take: a scraper waits some 10 s for all."""
_ANSWER_BYTES = 1 << 20

Json = Mapping[str, Any]


class Access(enum.Enum):
    """What the API server says of a client."""

    ALLOWED = enum.auto()
    UNKNOWN = enum.auto()
    """The token is nobody's, or has expired."""
    FORBIDDEN = enum.auto()


class ReviewError(Exception):
    """The API server could not be asked. Its text says why, and what to do about it."""


def review(connection: Connection, token: str, path: str) -> Access:
    """Return whether the owner of a bearer token may get a path. Raises ReviewError."""
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status = _status(connection, IDENTITY_REVIEWS, "tokenreviews", asked)
    user = status.get("user")
    if status.get("authenticated") is not True or not isinstance(user, Mapping) or not user.get("username"):
        return Access.UNKNOWN
    spec = {
        "nonResourceAttributes": {"path": path, "verb": "get"},
        "user": user["username"],
        "groups": user.get("groups") or [],
        "uid": user.get("uid") or "",
        "extra": user.get("extra") or {},
    }
    asked = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    status = _status(connection, ACCESS_REVIEWS, "subjectaccessreviews", asked)
    return Access.ALLOWED if status.get("allowed") is True else Access.FORBIDDEN


def _status(connection: Connection, path: str, resource: str, asked: Json) -> Json:
    """Create a review; return the status that it has got."""
    try:
        response = connection.post(path, json.dumps(asked).encode(), READ_SECONDS)
        try:
            body = response.read(_ANSWER_BYTES)
        finally:
            response.release_conn()
    except (ConfigurationError, urllib3.exceptions.HTTPError, OSError) as error:
        raise ReviewError(failure(error, connection.address)) from error
    if response.status not in (200, 201):
        if response.status == 401:
            connection.reset()
        said = decode_status(body)
        raise ReviewError(
            f"the API server does not take {resource} ({response.status}: "
            f"{one_line(said.message or said.reason)}); grant the agent's user create on {resource}, as "
            "deploy/components/metrics-auth does"
        )
    try:
        status = decode(body, dict[str, Any])["status"]
    except (UndecodableError, KeyError) as error:
        raise ReviewError(f"the API server gave an answer that is no review of {resource}") from error
    return status if isinstance(status, Mapping) else {}
