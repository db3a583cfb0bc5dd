"""One setting: the row of the table that the command line's options and the documentation are made of."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

from agent.setting_values import UnfitError, switch

ENVIRONMENT_PREFIX = "NETPOL_AGENT_"


class SettingError(ValueError):
    """A setting has a value that cannot be used. Its text names the setting, the value and the remedy."""


class Setting(NamedTuple):
    """One setting: the row of the table that options and documentation are made of.

    ``default`` is text as a person would give it. ``parse`` returns the typed value of a text or raises
    ValueError that says what is wanted. ``switch``: a flag with a negative form and no value.
    """

    name: str
    default: str
    metavar: str
    help: str
    parse: Callable[[str], Any]
    also: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    switch: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def negative_flag(self) -> str:
        return "--no-" + self.name.replace("_", "-")

    @property
    def environment(self) -> tuple[str, ...]:
        """The environment variables that are read, the first that is set deciding."""
        return (ENVIRONMENT_PREFIX + self.name.upper(), *self.also)

    @property
    def default_text(self) -> str:
        """The default, as documentation shows it."""
        return _DEFAULTS_IN_WORDS.get(self.name, self.default)


_DEFAULTS_IN_WORDS = {
    "node_name": "the host's name, in lower case",
    "kubeconfig": "the pod's service account, else ~/.kube/config",
    "context": "the current one",
    "manifests": "none: an API server is read",
    "own_managers": "none: no policy has to be confirmed",
    "metrics_address": "none: /metrics is with /healthz only",
    "metrics_cert": "none: it speaks plain HTTP",
    "metrics_key": "none",
    "flow_log": "none: the agent's log",
    "pod_networks": "those of the Node object, else of the bridge that pods are on",
}


def choice(name: str, kind: type[enum.StrEnum], default: enum.StrEnum, help_text: str) -> Setting:
    """Return a setting whose value is a member of an enumeration."""
    choices = tuple(member.value for member in kind)

    def parse(text: str) -> enum.StrEnum:
        try:
            return kind(text.lower())
        except ValueError:
            raise UnfitError(f"give one of {', '.join(choices)}") from None

    return Setting(name, default.value, "|".join(choices), help_text, parse, choices=choices)


def boolean(name: str, default: bool, help_text: str) -> Setting:
    """Return a setting that is on or off."""
    return Setting(name, "true" if default else "false", "", help_text, switch, switch=True)


def check_marks(ingress: int | None, egress: int | None) -> None:
    """Raise SettingError where both directions have one bit."""
    if ingress is not None and ingress == egress:
        raise SettingError(
            f"--mark-ingress and --mark-egress are both {ingress:#x}: give each direction its own bit. "
            "With one bit for both, what one direction allows would also pass the other."
        )
