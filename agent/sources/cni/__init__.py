"""What the node's container runtime keeps of its network plugins: which pod was given which address."""
