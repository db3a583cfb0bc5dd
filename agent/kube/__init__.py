"""Kubernetes objects: typed values, their decoding and their validation."""
