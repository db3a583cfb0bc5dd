"""Every feature again, by agents that run as deploy/ says: with its account, settings and privileges."""

from __future__ import annotations

from tests.cluster.test_features import *  # noqa: F403
