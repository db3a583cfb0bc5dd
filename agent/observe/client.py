"""The other end of the status server: asking a running agent, as ``netpol-agent status`` does."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping

from rich.console import Console

from agent.decoding import UndecodableError, decode
from agent.history.change import Row
from agent.history.query import url_query
from agent.observe import text
from agent.observe.explain.live import Asked, LiveAnswer
from agent.observe.explain.text import show_live
from agent.observe.flows.flow import Report, from_json
from agent.observe.history.route import History
from agent.observe.history.route import decode as decode_rows
from agent.observe.history.text import show as show_rows
from agent.observe.snapshot import StatusSnapshot
from agent.observe.snapshot import decode as decode_status
from agent.observe.status.policy import PolicyView
from agent.observe.status.policy import decode as decode_policy
from agent.observe.status.text import Around, checks_of

_SECONDS = 10.0
_WIDTH_OF_A_FILE = 160
_LAST_ROWS = 5
"""Changes that a screen shows."""


class UnreachableError(Exception):
    """No agent answers, or what answers is none. The text names the address and the remedy."""


def url_of(address: str, port: int) -> str:
    """Return where an agent that listens on an address is asked on this host."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("::1" if ip.version == 6 else "127.0.0.1")
    return f"http://[{ip}]:{port}" if ip.version == 6 else f"http://{ip}:{port}"


def fetch(url: str) -> tuple[bytes, StatusSnapshot]:
    """Return the agent's status, as served and decoded; raises :class:`UnreachableError`."""
    body = get(url, "/status")
    try:
        return body, decode_status(body)
    except UndecodableError as error:
        raise _another(url, error) from None


def ask(url: str, asked: Asked) -> tuple[bytes, LiveAnswer]:
    """Return what the agent says of a connection, as served and decoded; raises :class:`UnreachableError`."""
    query = {"from": asked.source, "to": asked.destination, "port": asked.port}
    body = get(url, f"/explain?{urllib.parse.urlencode(query)}")
    try:
        return body, decode(body, LiveAnswer)
    except UndecodableError as error:
        raise _another(url, error) from None


def get(url: str, path: str, codes: Collection[int] = (), seconds: float = _SECONDS) -> bytes:
    """Return what the agent serves at a path; raises :class:`UnreachableError`.

    ``codes``: of answers other than 200, those that are taken, too. ``seconds``: how long it may take.
    """
    if not url.startswith(("http://", "https://")):
        raise UnreachableError(f"--url is {url!r}: give it as http://ADDRESS:PORT.")
    # A proxy set for the cluster's or the world's addresses has no way to this host's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url.rstrip("/") + path, timeout=seconds) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:
        if error.code in codes:
            return bytes(error.read())
        detail = error.read(500).decode(errors="replace").strip()
        raise UnreachableError(f"{url} answers {error.code}: {detail}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {seconds:g} s"
        raise UnreachableError(
            f"no agent answers at {url}: {reason}. Is it running? --url says where it serves."
        ) from None
    except ValueError as error:
        raise _another(url, error) from None


def _another(url: str, error: Exception) -> UnreachableError:
    return UnreachableError(f"what answers at {url} is no netpol-agent of this version: {error}")


def show_answer(answer: LiveAnswer) -> None:
    """Print an answer on standard output, in colour on a terminal only."""
    show_live(answer, text.plain_console(sys.stdout))


def history_path(asked: Mapping[str, str]) -> str:
    """Return the path that asks for rows of the history, by the parts of a query."""
    return f"/history?{url_query(asked)}"


def show_history(found: History, pod: str = "") -> None:
    """Print rows on standard output, in colour on a terminal only, and of a pod since when it is isolated."""
    out = console()
    if not found.rows:
        out.print("nothing like that is known")
    show_rows(found.rows, out, pod if found.rows else "")


def around(url: str, asked: Mapping[str, str]) -> Around:
    """Return what there is to know besides the status, as far as the agent says it.

    ``asked``: whose changes and denied connections, by ``pod`` or ``policy``; without, the node's.
    """
    checks: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    rows: tuple[Row, ...] | None = None
    denied: tuple[Report, ...] | None = None
    with contextlib.suppress(UnreachableError, UndecodableError):
        checks = checks_of(get(url, "/readyz?format=json", (503,)))
    with contextlib.suppress(UnreachableError, UndecodableError):
        rows = decode_rows(get(url, history_path({**asked, "limit": str(_LAST_ROWS)}))).rows
    with contextlib.suppress(UnreachableError, UndecodableError):
        query = urllib.parse.urlencode({**asked, "verdict": "denied", "limit": "100"})
        lines = get(url, f"/flows?{query}").splitlines()
        denied = tuple(report for line in lines if (report := from_json(line)) is not None)
    return Around(*checks, rows, denied)


def policy(url: str, name: str) -> tuple[bytes, PolicyView] | None:
    """Return one policy, as served and decoded, None where the agent knows none of the name.

    Raises UnreachableError.
    """
    body = get(url, f"/rules?{urllib.parse.urlencode({'policy': name})}", (404,))
    try:
        return body, decode_policy(body)
    except UndecodableError as error:
        if body.startswith(b"no policy "):
            return None
        raise _another(url, error) from None


def console() -> Console:
    """Return a console on standard output, in colour on a terminal only."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    return text.plain_console(sys.stdout, width=width)


def show(snapshot: StatusSnapshot) -> None:
    """Print a snapshot, whole, on standard output."""
    text.show(snapshot, console())
