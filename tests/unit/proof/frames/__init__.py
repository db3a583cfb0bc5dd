"""The table that guards frames, proved without a kernel."""
