"""Faults injected while real packets flow: each promise of docs/guarantees.md, under its number."""
