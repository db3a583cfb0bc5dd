"""What a test sets up for the whole process ends with it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def own_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep how a test has logs written from those after it; loggers of modules are asked each time."""
    configure = functools.partial(structlog.configure)

    def uncached(**options: object) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})  # type: ignore[arg-type]

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    structlog.reset_defaults()
