"""The settings of what an address may do before a pod is known to have it."""

from __future__ import annotations

from agent.setting import Setting, choice
from agent.setting_values import NewPods, networks

NEW_POD_SETTINGS: tuple[Setting, ...] = (
    choice(
        "new_pods",
        NewPods,
        NewPods.ALLOW,
        "What an address of this node's pods may do before a pod is known to have it. allow: everything. "
        "deny: it can neither send nor receive, except from and to its own node.",
    ),
    Setting(
        "pod_networks",
        "",
        "CIDRS",
        "With --new-pods deny: the networks of this node's pods, commas between them. They may be those of "
        "all nodes' pods.",
        networks,
    ),
)
