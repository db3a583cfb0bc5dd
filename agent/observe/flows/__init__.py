"""Connections that were denied, and those allowed if wanted: named, with the reason, folded and kept."""
