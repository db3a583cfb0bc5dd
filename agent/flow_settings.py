"""The settings of what is told: by the history, by the log, and of which connections, how many, where to."""

from __future__ import annotations

from agent.kube.logging import Amount
from agent.setting import Setting, boolean, choice
from agent.setting_values import LogFormat, LogLevel, age, file_path, name_list, seconds, whole_number

FLOW_SETTINGS: tuple[Setting, ...] = (
    Setting("history_age", "30d", "TIME", "After how long a row of the history goes.", age),
    Setting(
        "own_managers",
        "",
        "NAMES",
        "The programs that write one's own policies, as managedFields name them, such as argocd-controller; "
        "commas between them. Policies that another wrote last are shown until `netpol-agent confirm`.",
        name_list,
    ),
    choice(
        "log_format",
        LogFormat,
        LogFormat.AUTO,
        "How the log is written. auto: console on a terminal, json elsewhere.",
    ),
    choice("log_level", LogLevel, LogLevel.INFO, "The least severe events that are logged."),
    choice(
        "log_denied",
        Amount,
        Amount.OFF,
        "Which denied connections of isolated pods are logged, with the reason. sampled: up to --log-rate. "
        "Annotations of pods and namespaces (netpol-agent.io/log-denied) come before this.",
    ),
    choice(
        "log_allowed",
        Amount,
        Amount.OFF,
        "The same of allowed new connections (netpol-agent.io/log-allowed). A connection that is cached as "
        "allowed is not logged again.",
    ),
    Setting(
        "log_rate",
        "10",
        "PACKETS",
        "How many packets of one pod and direction are logged in a second, if they are sampled.",
        whole_number(1, 1000),
    ),
    Setting(
        "log_burst",
        "20",
        "PACKETS",
        "How many are logged at once before that limit holds.",
        whole_number(1, 1000),
    ),
    Setting(
        "log_group",
        "3017",
        "NUMBER",
        "The NFLOG group by which packets come from the kernel. No other program may read the same.",
        whole_number(1, 65535),
    ),
    Setting(
        "log_window",
        "30",
        "SECONDS",
        "Packets of one kind are logged once in so many seconds, with a count.",
        seconds(1),
    ),
    Setting(
        "flow_log",
        "",
        "FILE",
        "Write logged connections to this file, as lines of JSON, not into the agent's log.",
        file_path,
    ),
    Setting(
        "flow_log_size",
        "10485760",
        "BYTES",
        "The file is set aside when it is so large; the one set aside before is removed.",
        whole_number(4096, 999_999_999),
    ),
    boolean(
        "events",
        False,
        "Tell of denied connections by Events of the pod, in the cluster. It needs the right to create them.",
    ),
)
