"""Policies proposed from connections that were seen."""
