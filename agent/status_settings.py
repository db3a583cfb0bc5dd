"""The settings of what the agent serves: its health, its status, and its metrics."""

from __future__ import annotations

from agent.setting import Setting, boolean
from agent.setting_values import address, endpoint, file_of, port_number

STATUS_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "health_address", "127.0.0.1", "ADDRESS", "The IP address of /healthz, /readyz and /status.", address
    ),
    Setting(
        "health_port",
        "20245",
        "PORT",
        "The TCP port of /healthz, /readyz and /status. 0: any free port.",
        port_number,
    ),
    Setting(
        "metrics_address",
        "",
        "HOST:PORT",
        "An IP address and TCP port that serve /metrics and nothing else, for scrapers outside this node, "
        "such as 0.0.0.0:20246.",
        endpoint,
    ),
    Setting(
        "metrics_cert",
        "",
        "FILE",
        "The certificate of --metrics-address, PEM, with those that lead to its issuer: it speaks TLS then. "
        "It is read again when it changes.",
        file_of,
    ),
    Setting("metrics_key", "", "FILE", "The private key of --metrics-cert, PEM.", file_of),
    boolean(
        "metrics_authorize",
        False,
        "Have --metrics-address answer only who gives a bearer token whose owner may get the nonResourceURL "
        "/metrics, as the API server says.",
    ),
    boolean(
        "metrics_per_policy",
        False,
        "Give /metrics the packets and bytes that each policy allowed: two more series for each policy.",
    ),
)
