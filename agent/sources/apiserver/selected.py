"""Requests that ask for some objects of a kind alone."""

from __future__ import annotations

from collections.abc import Mapping

import urllib3

from agent.sources.apiserver.connect import CONNECT_SECONDS, Getting


class Selected:
    """Has every GET of a connection ask by a field selector: lists and watches of one object, as a rule."""

    def __init__(self, connection: Getting, selector: str) -> None:
        self._of = connection
        self._selector = selector

    @property
    def address(self) -> str:
        return self._of.address

    def get(
        self,
        path: str,
        query: Mapping[str, str],
        read_seconds: float,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        anew: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        selecting = {**query, "fieldSelector": self._selector}
        return self._of.get(path, selecting, read_seconds, connect_seconds=connect_seconds, anew=anew)

    def reset(self) -> None:
        self._of.reset()
