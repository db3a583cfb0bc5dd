"""How the agent is doing, for probes, programs and people: health, a snapshot, a local HTTP server."""
