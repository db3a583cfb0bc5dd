"""What a node must have, and how that is watched."""
