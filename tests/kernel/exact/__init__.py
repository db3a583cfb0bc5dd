"""The kernel against the evaluator: random clusters in a real kernel, asked with real packets.

Run by hand for as long as wanted: ``python -m tests.kernel.exact --clusters 20000``.
"""
