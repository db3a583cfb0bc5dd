"""What people and probes are told: health, snapshot, the local HTTP server; views only."""
