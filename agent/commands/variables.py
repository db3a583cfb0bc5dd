"""Variables of the environment that look like settings and are none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from agent.setting import ENVIRONMENT_PREFIX
from agent.settings import SETTINGS

# What Kubernetes sets in every pod for a Service that is called netpol-agent.
_OF_A_SERVICE = re.compile(r"SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.+)?)?")


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a line for each variable that looks like a setting of ours and is none, with the nearest."""
    known = [variable for setting in SETTINGS for variable in setting.environment]
    lines = []
    for variable in sorted(environ):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name == variable or variable in known or _OF_A_SERVICE.fullmatch(name):
            continue
        near = difflib.get_close_matches(variable, known, 1, 0.8)
        remedy = f"did you mean {near[0]}?" if near else "'netpol-agent run --help' lists those there are"
        lines.append(f"{variable} is not a setting and has no effect; {remedy}")
    return tuple(lines)
