"""How many examples the property tests try: HYPOTHESIS_PROFILE=deep looks much longer than CI does."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("ci", max_examples=250, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("deep", max_examples=5000, deadline=None, suppress_health_check=_SLOW)
# Looks for a failure only, without making it small: for a first answer in seconds.
settings.register_profile(
    "quick", max_examples=300, deadline=None, suppress_health_check=_SLOW, phases=(Phase.generate,)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
