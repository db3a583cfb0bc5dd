"""What an HTTP answer of an API server says before its body is read."""

from __future__ import annotations

import time

import urllib3

from agent.kube.wire import decode_status
from agent.sources.apiserver.backoff import retry_after
from agent.sources.apiserver.faults import RequestFailedError
from agent.sources.apiserver.proof import prove_content

_REFUSAL_BYTES = 1 << 18
"""How much is read of an answer that is no 200: what says why is short, and others may have no end."""


class ExpiredError(Exception):
    """The resourceVersion or continue token is too old (410 Gone): list again."""


def raise_for(response: urllib3.BaseHTTPResponse) -> None:
    """Raise ExpiredError, RequestFailedError or UnprovenError, unless an answer is a 200 with JSON."""
    if response.status == 200:
        prove_content(response.headers.get("Content-Type"))
        return
    body = response.read(_REFUSAL_BYTES)
    if len(body) == _REFUSAL_BYTES:
        # The rest is not waited for, and would be read as the next answer.
        response.close()
    status = decode_status(body)
    if response.status == 410:
        raise ExpiredError
    raise RequestFailedError(
        response.status, status, retry_after(response.headers.get("Retry-After"), time.time())
    )
