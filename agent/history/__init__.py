"""What changed on this node, by whom, and when the kernel had it: kept in a file that outlives the agent."""
