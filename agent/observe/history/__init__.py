"""What changed on this node, who changed it, and when the kernel had it: as it is served, and for people."""
