"""What a policy may cost a node, and whose turn it is."""
