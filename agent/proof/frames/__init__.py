"""The table that guards frames of pods, held against what each pod may send by its link."""

TABLE = "netpol-agent-frames"
"""Its name, in the family ``netdev`` of nftables. Said here a second time: a proof knows nothing of what
writes it."""
PRIORITY = -500
"""Where its chains come among those of an interface: before all that nft(8) has a name for."""
