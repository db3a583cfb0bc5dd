"""Every feature again, on a cluster: with its own network plugin, kube-proxy, runtime and kubelets."""

from __future__ import annotations

from tests.cluster.test_features import *  # noqa: F403
