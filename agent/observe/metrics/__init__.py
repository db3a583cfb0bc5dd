"""Metrics: what is measured, each once, and how Prometheus is told."""
