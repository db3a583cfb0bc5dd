"""Tests of what is read of network plugins' results."""
