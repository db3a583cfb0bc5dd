"""The kernel's state held against the specification, for every packet at once."""
