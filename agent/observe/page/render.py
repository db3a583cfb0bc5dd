"""From a template and what is in it to an answer, with what keeps a browser from running anything else.

All names come from tenants: every value is escaped (autoescape is on for all templates), and the only script
and style that a browser may take are those of the page itself, by a nonce (CSP 3, 7.1).
"""

from __future__ import annotations

import datetime
import functools
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.observe.routes import Response

if TYPE_CHECKING:
    import jinja2

HTML = "text/html; charset=utf-8"
_TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def _environment() -> jinja2.Environment:
    # It takes 50 ms and 3 MB, which nobody pays who does not look.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = _moment
    environment.filters["duration"] = _duration
    environment.filters["ago"] = _ago
    return environment


def page(template: str, code: int = 200, **context: Any) -> Response:
    """Return a page."""
    nonce = secrets.token_urlsafe(18)
    text = _environment().get_template(template).render(**context, nonce=nonce)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = (
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", "no-referrer"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    )
    return Response(code, HTML, text.encode(errors="replace"), headers=headers)


def _moment(found: datetime.datetime | None) -> str:
    if found is None:
        return "never"
    return found.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    from agent.observe.text import duration

    return duration(seconds)


def _ago(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{_duration(seconds)} ago"
