"""Which room may import from which: the rule of docs/architecture.md."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import agent

ROOT = Path(agent.__file__).parent

GROUND = {
    "net",
    "fault",
    "closing",
    "decoding",
    "histogram",
    "clock",
    "words",
    "setting_values",
    "setting",
    "settings",
    "log",
}
MAY_IMPORT: dict[str, set[str]] = {
    "net": set(),
    "fault": set(),
    "clock": set(),
    "closing": set(),
    "decoding": set(),
    "histogram": set(),
    "words": set(),
    "setting_values": {"policy", "net"},
    "setting": {"setting_values"},
    "packet_settings": {"setting_values", "setting"},
    "flow_settings": {"kube", "setting_values", "setting"},
    "status_settings": {"setting_values", "setting"},
    "new_pod_settings": {"setting_values", "setting"},
    "settings": {
        *("policy", "kube", "net", "setting_values", "setting"),
        *("flow_settings", "packet_settings", "status_settings", "new_pod_settings"),
    },
    "log": {"setting_values", "setting", "settings"},
    "kube": {"net"},
    "kernel": {"net", "fault", "closing"},
    "sources": {"kernel", "kube", "net", "log", "words", "decoding"},
    "history": {"kube", *GROUND},
    "spec": {"kube", "net"},
    "convert": {"kube", "net"},
    "reach": {"spec", "kube", "net", "words"},
    "lint": {"kube", "net", "words"},
    "program": {"kube", "net"},
    "graph": {"program", "kube", "net"},
    "peers": {"graph", "program", "kube", "net"},
    "addresses": {"graph", "program", "kube", "net"},
    "lower": {"peers", "addresses", "graph", "program", "kube", "net"},
    "policy": {"lower", "peers", "addresses", "graph", "program", "kube", "net"},
    "dataplane": {"lower", "program", "kernel", "kube", "net", "fault", "clock"},
    "iptables": {"dataplane", "lower", "program", "kernel", "kube", *GROUND},
    "proof": {"iptables", "dataplane", "reach", "spec", "kernel", "kube", "net", "words"},
    "frames": {"dataplane", "kernel", "net", "fault", "closing"},
    "host": {"kernel", *GROUND},
    "observe": {
        "history",
        *("dataplane", "history", "policy", "lower", "program", "spec", "sources", "kernel", "kube"),
        "convert",
        *GROUND,
    },
    "backends": {"iptables", "frames", "dataplane", "kube", "lower", *GROUND},
    "runtime": {
        *("backends", "observe", "host", "proof", "frames", "dataplane", "history", "policy", "lower"),
        "program",
        *("sources", "kernel", "kube"),
        *GROUND,
    },
    "commands": {
        *(
            "runtime",
            "backends",
            "observe",
            "proof",
            "host",
            "dataplane",
            "history",
            "policy",
            "lower",
            "spec",
            "convert",
            "reach",
            "lint",
            "sources",
            "kernel",
            "kube",
        ),
        *GROUND,
    },
    "__main__": {"commands"},
}
"""For each room those from which it may import; the version at the top is everybody's."""

ROOMS_INSIDE = {
    "agent.dataplane.iptables": "iptables",
    "agent.dataplane.frames": "frames",
    "agent.runtime.backends": "backends",
    "agent.policy.program": "program",
    "agent.policy.compile": "program",
    "agent.policy.ports": "program",
    "agent.policy.graph": "graph",
    "agent.policy.peers": "peers",
    "agent.policy.addresses": "addresses",
    "agent.policy.lower": "lower",
}
"""Rooms of their own within another one. What makes the program is in one room with it."""


def test_rooms_import_only_from_those_they_may() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, imported in _imports()
        if room(imported) not in {room(module), *MAY_IMPORT[room(module)]}
    ]
    assert wrong == []


def test_the_rule_is_as_the_architecture_draws_it() -> None:
    """In the drawing a room may import from lines below its own."""
    text = (ROOT.parent / "docs/architecture.md").read_text()
    drawn = text.partition("## Who imports from whom")[2].split("```")[1].removeprefix("text\n")
    line = {
        Path(name).name: number for number, line in enumerate(drawn.splitlines()) for name in line.split()
    }
    assert line.keys() == MAY_IMPORT.keys() - {"__main__"}
    for name, others in MAY_IMPORT.items():
        assert [other for other in others if line[other] <= line.get(name, -1)] == [], name


def test_the_iptables_backend_is_in_the_order_that_the_architecture_draws() -> None:
    """Nothing there may import from a line above its own; what is not drawn stands above all lines."""
    text = (ROOT.parent / "docs/architecture.md").read_text()
    drawn = text.partition("Inside `agent/dataplane/iptables`")[2].split("```")[1].removeprefix("text\n")
    line = {name: number for number, line in enumerate(drawn.splitlines()) for name in line.split()}
    folder = ROOT / "dataplane/iptables"
    assert {path.parent.name for path in folder.glob("*/__init__.py")} <= line.keys()
    assert all((folder / name).is_dir() or (folder / f"{name}.py").is_file() for name in line)
    wrong = []
    for module, imported in _imports():
        if room(module) == room(imported) == "iptables":
            place, used = module.split(".")[3], (*imported.split("."), "")[3]
            if place != used and line.get(used, -1) <= line.get(place, -2):
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    needs: dict[str, set[str]] = {}
    for module, imported in _imports():
        needs.setdefault(module, set()).add(imported)
    assert list(graphlib.TopologicalSorter(needs).static_order())


def room(module: str) -> str:
    parts = module.split(".")
    return ROOMS_INSIDE.get(".".join(parts[:3]), parts[1])


def _imports() -> Iterator[tuple[str, str]]:
    """Yield (module, what it imports) for modules of the agent."""
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        if path.name == "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "agent":
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found = full if _is_module(full) else str(node.module)
                    if found != "agent":
                        yield module, found


def _is_module(name: str) -> bool:
    return (ROOT.parent / Path(*name.split("."))).with_suffix(".py").exists()
