"""Every setting of the agent, once: its flag, environment variables, default, meaning and check.

The table :data:`SETTINGS` makes the command line's options and the documentation's table;
:func:`resolve` turns what a person gave into one typed, valid :class:`Settings`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agent.flow_settings import FLOW_SETTINGS
from agent.kube.logging import Amount, Logging
from agent.net import Network
from agent.new_pod_settings import NEW_POD_SETTINGS
from agent.packet_settings import PACKET_SETTINGS
from agent.policy.budget.limits import (
    DEFAULT,
    Budgets,
    NamespaceBudget,
    PolicyBudget,
    budget_text,
)
from agent.setting import Setting, boolean, check_marks, choice
from agent.setting import SettingError as SettingError
from agent.setting_values import (
    KUBE_PROXY_MARKS,
    AllowedPackets,
    DeniedPackets,
    Endpoint,
    Families,
    IptablesMode,
    LogFormat,
    LogLevel,
    NewPods,
    UnfitError,
    budget,
    cni_results,
    directory,
    mark,
    node_name,
    nri_socket,
    path_of,
    seconds,
    size,
    some_text,
)
from agent.status_settings import STATUS_SETTINGS


@dataclass(frozen=True)
class Settings:
    """The agent's settings, typed and valid. What each means is said once, in :data:`SETTINGS`.

    ``kubeconfig`` may be a list of files, as ``KUBECONFIG`` may; empty means the usual places. Marks are
    single bits, None where the agent chooses; ``linger``, ``cache_allowed``, ``drift_interval``,
    ``verify_interval`` and ``confirm_empty`` are seconds, as is ``history_age``; ``history_size`` is bytes.
    """

    node_name: str
    kubeconfig: str
    context: str
    manifests: Path | None
    state_dir: Path
    iptables_mode: IptablesMode
    families: Families
    mark_ingress: int | None
    mark_egress: int | None
    allowed_packets: AllowedPackets
    denied_packets: DeniedPackets
    cut_denied: bool
    allow_nodes: bool
    new_pods: NewPods
    pod_networks: frozenset[Network]
    linger: float
    cache_allowed: float
    policy_budget: PolicyBudget
    namespace_budget: NamespaceBudget
    drift_interval: float
    verify_interval: float
    confirm_empty: float
    history_size: int
    guard_frames: bool
    fix_host: bool
    cni_results: tuple[Path, ...]
    nri_socket: Path | None
    health_address: str
    health_port: int
    metrics_address: Endpoint | None
    metrics_cert: Path | None
    metrics_key: Path | None
    metrics_authorize: bool
    metrics_per_policy: bool
    history_age: float
    own_managers: frozenset[str]
    log_format: LogFormat
    log_level: LogLevel
    log_denied: Amount
    log_allowed: Amount
    log_rate: int
    log_burst: int
    log_group: int
    log_window: float
    flow_log: Path | None
    flow_log_size: int
    events: bool

    @property
    def denies_new(self) -> bool:
        """Whether an address of this node's pods is closed until a pod is known to have it."""
        return self.new_pods is NewPods.DENY

    @property
    def closes_by_node(self) -> bool:
        """Whether the networks in which that is so are those of the Node object."""
        return self.denies_new and not self.pod_networks

    @property
    def budgets(self) -> Budgets:
        """What policies may cost this node."""
        return Budgets(self.policy_budget, self.namespace_budget)

    @property
    def logging(self) -> Logging:
        """Which connections are logged of pods that do not say it themselves."""
        return Logging(self.log_denied, self.log_allowed)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "node_name",
        "",
        "NAME",
        "The name of this node in the cluster. Policies are enforced for the pods of this node.",
        node_name,
        also=("NODE_NAME",),
    ),
    Setting(
        "kubeconfig",
        "",
        "FILE",
        "The file that says how to reach the API server.",
        some_text,
        also=("KUBECONFIG",),
    ),
    Setting("context", "", "NAME", "The context of the kubeconfig to use.", some_text),
    Setting(
        "manifests",
        "",
        "DIR",
        "Read Pods, Namespaces and NetworkPolicies from this directory, not from an API server. "
        "Changed files are read again.",
        directory,
    ),
    Setting(
        "state_dir",
        "/var/lib/netpol-agent",
        "DIR",
        "Where the history is kept, and the last good version of each manifest, so that a restart does not "
        "lose them.",
        path_of,
    ),
    choice(
        "iptables_mode",
        IptablesMode,
        IptablesMode.AUTO,
        "Which of the two iptables to use. auto: the one in which kubelet made a chain; without "
        "such a chain, the one that has this agent's chains, else the one that has more rules.",
    ),
    choice(
        "families",
        Families,
        Families.AUTO,
        "The address families to enforce. auto: those that the kernel has.",
    ),
    Setting(
        "mark_ingress",
        "auto",
        "BIT",
        "The bit of a packet's mark that means: its destination's policies allow it. auto: a free bit.",
        mark,
    ),
    Setting(
        "mark_egress",
        "auto",
        "BIT",
        "The bit of a packet's mark that means: its source's policies allow it. auto: a free bit.",
        mark,
    ),
    *PACKET_SETTINGS,
    *NEW_POD_SETTINGS,
    Setting(
        "linger",
        "60",
        "SECONDS",
        "How long the address of an isolated pod stays closed after the pod is deleted or finished, unless a "
        "newer pod gets the address.",
        seconds(0),
    ),
    Setting(
        "cache_allowed",
        "10",
        "SECONDS",
        "How long an allowed connection is cached: the same connection is not judged again. 0: every "
        "connection is judged.",
        seconds(0),
    ),
    Setting(
        "policy_budget",
        budget_text(DEFAULT.policy),
        "AMOUNTS",
        "What one policy may need on this node. One that needs more isolates its pods and allows nothing.",
        budget(DEFAULT.policy),
    ),
    Setting(
        "namespace_budget",
        budget_text(DEFAULT.namespace),
        "AMOUNTS",
        "The same for all policies of one namespace that select pods of this node. The oldest policies stay "
        "in force.",
        budget(DEFAULT.namespace),
    ),
    Setting(
        "drift_interval",
        "10",
        "SECONDS",
        "How often the kernel is compared with the rules and sets that it should hold.",
        seconds(1),
    ),
    Setting(
        "verify_interval",
        "60",
        "SECONDS",
        "How often the kernel is proved to do what the policies say, for every packet. 0: never by itself.",
        seconds(0),
    ),
    Setting(
        "confirm_empty",
        "30",
        "SECONDS",
        "When a list lacks every object, or is older than the last one: how long to wait for a second list "
        "that confirms it. 0: it is believed at once.",
        seconds(0),
    ),
    Setting(
        "history_size",
        "16Mi",
        "BYTES",
        "How large the file of the history in the state directory may get; then the oldest rows go. 0: no "
        "history is kept.",
        size(256 << 10),
    ),
    boolean(
        "guard_frames",
        False,
        "Drop what a pod sends under an address that is not its own, in ARP and neighbour discovery too, and "
        "frames that are neither IP nor ARP.",
    ),
    boolean(
        "fix_host",
        True,
        "Change kernel settings and load modules where enforcement needs it. With --no-fix-host: only report "
        "what is wrong.",
    ),
    Setting(
        "cni_results",
        "auto",
        "FOLDERS",
        "Where the container runtime keeps what network plugins gave each pod, with commas between: a pod is "
        "isolated by that one to two seconds before its status says its address. auto: "
        "/var/lib/cni/results and /var/lib/cni/cache/results. off: nowhere.",
        cni_results,
    ),
    Setting(
        "nri_socket",
        "auto",
        "SOCKET",
        "Where the container runtime listens for plugins of NRI: a new pod's containers start when the pod "
        "is isolated. auto: /var/run/nri/nri.sock, when it is there. off: the runtime does not wait.",
        nri_socket,
    ),
    *STATUS_SETTINGS,
    *FLOW_SETTINGS,
)


_BY_NAME = {setting.name: setting for setting in SETTINGS}


def setting_of(name: str) -> Setting:
    """Return the setting of a name."""
    return _BY_NAME[name]


class _Given(NamedTuple):
    """A setting's text and where it came from: a flag, an environment variable or nowhere."""

    text: str
    origin: str


def _given(setting: Setting, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> _Given:
    flag = flags.get(setting.name)
    if flag is not None:
        return _Given(flag, setting.flag)
    for variable in setting.environment:
        # An empty variable is as good as none: manifests often set one from a value that is not there.
        if environ.get(variable):
            return _Given(environ[variable], variable)
    return _Given(setting.default, "")


def given(name: str, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> bool:
    """Whether a person set the setting of this name, by a flag or in the environment."""
    return bool(_given(_BY_NAME[name], flags, environ).origin)


def value(name: str, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Any:
    """Return one setting's typed value; raises :class:`SettingError` when its text cannot be used."""
    setting = _BY_NAME[name]
    return _parsed(setting, _given(setting, flags, environ))


def resolve(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    hostname: Callable[[], str] = socket.gethostname,
) -> Settings:
    """Return the settings that flags (by setting name), then environment variables, then defaults give.

    Raises :class:`SettingError` at the first that cannot be used.
    """
    texts = {setting.name: _given(setting, flags, environ) for setting in SETTINGS}
    if not texts["node_name"].origin:
        texts["node_name"] = _Given(hostname().lower(), "--node-name (not given: the host's name)")
    values = {setting.name: _parsed(setting, texts[setting.name]) for setting in SETTINGS}
    check_marks(values["mark_ingress"], values["mark_egress"])
    if values["manifests"] is not None:
        _check_one_source(texts)
        values["kubeconfig"] = ""
    _check_metrics(texts, values)
    return Settings(**values)


def _parsed(setting: Setting, chosen: _Given) -> Any:
    if chosen.origin and not chosen.text:
        # Perhaps a shell variable that is not set: what the default does is not what was meant.
        raise SettingError(f"{chosen.origin} is empty: give it a value, or leave it out.")
    try:
        return setting.parse(chosen.text)
    except UnfitError as unfit:
        raise SettingError(f"{chosen.origin or setting.flag} is {chosen.text!r}: {unfit}.") from None


def _check_one_source(texts: Mapping[str, _Given]) -> None:
    # KUBECONFIG is often set for other programs and gives way; a setting of our own does not.
    for name in ("kubeconfig", "context"):
        text, origin = texts[name]
        if origin and origin != "KUBECONFIG":
            raise SettingError(
                f"{origin} is {text!r} and {texts['manifests'].origin} is {texts['manifests'].text!r}: "
                "objects come from one place; leave one of the two out."
            )


def _check_metrics(texts: Mapping[str, _Given], values: Mapping[str, Any]) -> None:
    cert, key, authorize = (texts[f"metrics_{name}"].origin for name in ("cert", "key", "authorize"))
    if bool(values["metrics_cert"]) is not bool(values["metrics_key"]):
        raise SettingError(f"{cert or key} is given alone: give both --metrics-cert and --metrics-key.")
    if values["metrics_address"] is None and (values["metrics_cert"] or values["metrics_authorize"]):
        raise SettingError(
            f"{cert or authorize} is given without --metrics-address: give the address that it is for."
        )
    if values["metrics_authorize"] and values["manifests"] is not None:
        raise SettingError(
            f"{authorize} and {texts['manifests'].origin} are both given: it is an API server that says who "
            "may read metrics; leave one of the two out."
        )


def warnings(settings: Settings) -> tuple[str, ...]:
    """Return what a person should know of settings that are valid and yet may do harm, a line each."""
    marks = [
        f"--{name} is {mark:#x}, a bit that kube-proxy uses by default: "
        "choose another, or give kube-proxy other masquerade and drop bits"
        for name, mark in (("mark-ingress", settings.mark_ingress), ("mark-egress", settings.mark_egress))
        if mark is not None and mark & KUBE_PROXY_MARKS
    ]
    if ipaddress.ip_address(settings.health_address).is_loopback:
        return tuple(marks)
    served = (
        f"--health-address is {settings.health_address}: everybody who reaches it, pods included, can "
        "read on /status which pods and policies are here. Choose 127.0.0.1, or block the port for others."
    )
    return (*marks, served)
