"""Who owns an address, who did, and which stay closed."""
