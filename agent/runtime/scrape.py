"""The port for scrapers outside the node: what it serves, by TLS or not, and who may read."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from agent import log
from agent.observe.metrics.exposition import Exposition
from agent.observe.metrics.figures import Figures
from agent.observe.routes import Route
from agent.observe.server import RouteServer
from agent.observe.tls import Certificate
from agent.settings import Settings

if TYPE_CHECKING:
    from agent.observe.authorize import Authorizer

_log = log.get(__name__)

PATH = "/metrics"
_REMEDIES = (
    "choose an address of this node with --metrics-address",
    "free the port, or choose another with --metrics-address",
)


def metrics_route(figures: Callable[[], Figures]) -> Route:
    """Return what answers scrapes."""
    return Route(Exposition(figures).answer, "figures for Prometheus", large=True)


def metrics_server(settings: Settings, route: Route, names: Iterable[str]) -> RouteServer | None:
    """Return the server of ``--metrics-address``, not started; None where the setting is not given.

    ``names``: under which this node may be asked, besides IP addresses.
    """
    if settings.metrics_address is None:
        return None
    for warning in _warnings(settings):
        _log.warning("metrics can be read by others", detail=warning)
    certificate, key = settings.metrics_cert, settings.metrics_key
    return RouteServer(
        settings.metrics_address.address,
        settings.metrics_address.port,
        {PATH: _authorizer(settings).guard(route) if settings.metrics_authorize else route},
        names,
        what="metrics",
        remedies=_REMEDIES,
        certificate=None if certificate is None or key is None else lambda: Certificate(certificate, key),
    )


def _authorizer(settings: Settings) -> Authorizer:
    # What reads kubeconfigs is loaded by nothing else where an agent reads manifests.
    from agent.observe.authorize import Authorizer
    from agent.sources.apiserver.connect import Connection
    from agent.sources.apiserver.review import review

    connection = Connection(settings.kubeconfig or None, settings.context or None)
    return Authorizer(lambda token: review(connection, token, PATH))


def _warnings(settings: Settings) -> Iterator[str]:
    where = settings.metrics_address
    if where is None or ipaddress.ip_address(where.address).is_loopback:
        return
    if not settings.metrics_authorize:
        yield (
            f"everybody who reaches {where}, pods included, can read which namespaces have isolated pods "
            "here and how much is denied: set --metrics-authorize, or block the port for others"
        )
    elif settings.metrics_cert is None:
        yield f"tokens are sent to {where} in the clear: set --metrics-cert and --metrics-key"
