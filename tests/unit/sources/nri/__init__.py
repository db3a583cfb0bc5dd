"""Tests of the plugin by which the container runtime waits."""
