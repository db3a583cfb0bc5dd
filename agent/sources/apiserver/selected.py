"""Requests that ask for some objects of a kind alone."""

from __future__ import annotations

from collections.abc import Mapping

import urllib3

from agent.sources.apiserver.connect import Getting


class Selected:
    """Has every GET of a connection ask by a field selector: lists and watches of one object, as a rule."""

    def __init__(self, connection: Getting, selector: str) -> None:
        self._of = connection
        self._selector = selector

    @property
    def address(self) -> str:
        return self._of.address

    def get(self, path: str, query: Mapping[str, str], read_seconds: float) -> urllib3.BaseHTTPResponse:
        return self._of.get(path, {**query, "fieldSelector": self._selector}, read_seconds)

    def reset(self) -> None:
        self._of.reset()
