"""The tables as the kernel holds them: read, compared, restored."""
