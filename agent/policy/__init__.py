"""What NetworkPolicy means on one node: pure values and functions, no kernel, no API server."""
