"""How long tests wait for what comes when it comes."""

PATIENCE = 120.0
"""Seconds. Nothing is promised of when it comes, and a busy machine takes its time; only a test that fails
waits so long. What is promised within a time, and what must not come, have times of their own."""
