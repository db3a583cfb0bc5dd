"""How log events are written: one line for each, with fields, to standard error."""

from __future__ import annotations

import logging
import os
import sys

from agent.setting_values import LogFormat, LogLevel

# structlog loads rich when it is there, for tracebacks in colour: a tenth of a second of each start, and five
# megabytes for as long as the agent runs. Told that it is not there, it prints plain ones.
_missing = "rich" not in sys.modules
if _missing:
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _missing:
        del sys.modules["rich"]

_NAME = "logger_name"
"""structlog's own functions have an argument ``logger``, so it cannot be bound under that name."""


def _name_logger(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if _NAME in event:
        event["logger"] = event.pop(_NAME)
    return event


def _one_line(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave out of texts, which others may have written, what a terminal would not print but obey."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key != "exception":
            event[key] = "".join(c if c.isprintable() else " " for c in value)
    return event


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module: events are short fixed texts, what varies goes in fields."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**{_NAME: name})
    return logger


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Set up structlog, and the standard library's logging of the packages used, for the whole process."""
    least = getattr(logging, level.value.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_logger,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    final: list[structlog.typing.Processor]
    if as_json:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # https://no-color.org: set and not empty.
        colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        final = [_one_line, structlog.dev.ConsoleRenderer(colors=colours)]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    # Other packages log per request at INFO, and bodies with credentials at DEBUG.
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING), force=True)
