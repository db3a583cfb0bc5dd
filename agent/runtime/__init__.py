"""The loop: events in, the kernel moved, and what is due by itself."""
