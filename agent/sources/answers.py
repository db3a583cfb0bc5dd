"""What an HTTP answer of an API server says before its body is read."""

from __future__ import annotations

import time

import urllib3

from agent.kube.wire import decode_status
from agent.sources.backoff import retry_after
from agent.sources.faults import RequestFailedError
from agent.sources.proof import prove_content


class ExpiredError(Exception):
    """The resourceVersion or continue token is too old (410 Gone): list again."""


def raise_for(response: urllib3.BaseHTTPResponse) -> None:
    """Raise ExpiredError, RequestFailedError or UnprovenError, unless an answer is a 200 with JSON."""
    if response.status == 200:
        prove_content(response.headers.get("Content-Type"))
        return
    status = decode_status(response.read())
    if response.status == 410:
        raise ExpiredError
    raise RequestFailedError(
        response.status, status, retry_after(response.headers.get("Retry-After"), time.time())
    )
