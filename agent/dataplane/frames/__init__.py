"""Frames of pods, guarded where they come in: each pod sends as itself and nobody else."""

TABLE = "netpol-agent-frames"
"""The table of nftables that holds it, in the family ``netdev``."""
