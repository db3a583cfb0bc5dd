"""Whether a client takes HTML."""

from __future__ import annotations


def wants_html(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) names HTML: browsers do, curl and probes do not."""
    kinds = (part.partition(";") for part in accept.lower().split(","))
    return any(
        kind.strip() == "text/html" and more.strip() not in ("q=0", "q=0.0") for kind, _, more in kinds
    )
