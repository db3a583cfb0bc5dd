"""How log events are written: one line for each, with fields, to standard error."""

from __future__ import annotations

import logging
import sys

import structlog

from agent.settings import LogFormat, LogLevel


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module: events are short fixed texts, what varies goes in fields."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Set up structlog, and the standard library's logging of the packages used, for the whole process."""
    least = getattr(logging, level.value.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    final: list[structlog.typing.Processor]
    if as_json:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        final = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
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
