"""The demo: real packets allowed and denied by the policies of ``examples/``."""
