"""netpol-agent: enforces Kubernetes NetworkPolicy on a node."""

__version__ = "0.1.0"
