"""A test node and its pods, made of network namespaces, and what probes them with real packets."""
