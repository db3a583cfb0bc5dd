"""Answers to whether a connection is allowed, and why: from manifests, and from a running agent."""
