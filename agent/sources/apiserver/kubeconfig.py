"""Kubeconfig files: which are read, and what a person is likely to have mistaken in them.

Checked when the agent starts, where it is a mistake to be told at once, and again each time the
configuration is read, since the files may be exchanged. The rules are those of
``kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig``: of several files the first
that has an entry of a name holds.
"""

from __future__ import annotations

import base64
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from agent.kube.text import UnreadableError, yaml_documents

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
USUAL = "~/.kube/config"

_DATA = {
    "cluster": ("certificate-authority-data",),
    "user": ("client-certificate-data", "client-key-data"),
}


class ConfigurationError(Exception):
    """No usable configuration; the message says why and what to do."""


def check_at_start(kubeconfig: str, context: str, environ: Mapping[str, str]) -> None:
    """Raise ConfigurationError for what waiting will not mend; both texts may be empty.

    In a pod whose own account is to be used there is nothing to check; credentials are not asked for.
    """
    named = kubeconfig or environ.get("KUBECONFIG", "")
    if not kubeconfig and not context and environ.get("KUBERNETES_SERVICE_HOST"):
        return
    check_files(named or USUAL, context or None, bool(named))


def check_files(path: str, context: str | None, named: bool) -> None:
    """Raise ConfigurationError for what is wrong with a list of kubeconfig files; ``named`` by a person."""
    files = [file for file in map(_expanded, path.split(os.pathsep)) if file is not None]
    found = [file for file in files if os.path.lexists(file)]
    if not found and named:
        raise ConfigurationError(f"kubeconfig {path}: no such file; correct the path in --kubeconfig")
    if not found:
        raise ConfigurationError(
            f"none found: not in a pod (no {SERVICE_ACCOUNT}), and no {' or '.join(map(str, files))}; "
            "name a file with --kubeconfig, or a directory with --manifests to do without an API server"
        )
    contents = [_content(file) for file in found]
    chosen = context or next((str(c["current-context"]) for c in contents if c.get("current-context")), "")
    contexts = _entries(contents, "context")
    if chosen not in contexts:
        raise ConfigurationError(_no_context(path, chosen, list(contexts)))
    for kind in ("cluster", "user"):
        name = contexts[chosen].get(kind)
        if not name and kind == "user":
            continue
        entries = _entries(contents, kind)
        where = f"kubeconfig {path}: context {chosen!r}"
        if not isinstance(name, str) or name not in entries:
            there = f"there are: {', '.join(entries)}" if entries else f"it has no {kind}s"
            raise ConfigurationError(f"{where} names the {kind} {name!r}, which is not there; {there}")
        _check_entry(f"kubeconfig {path}: {kind} {name!r}", kind, entries[name])


def _no_context(path: str, chosen: str, contexts: list[str]) -> str:
    if not contexts:
        return f"kubeconfig {path} has no contexts; give a file that kubectl can use"
    problem = f"has no context {chosen!r}" if chosen else "has no current-context"
    near = difflib.get_close_matches(chosen, contexts, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"kubeconfig {path} {problem}; {meant}choose with --context: {', '.join(contexts)}"


def _check_entry(where: str, kind: str, entry: Mapping[str, Any]) -> None:
    if kind == "cluster":
        server = entry.get("server")
        if not _is_url(server):
            raise ConfigurationError(
                f"{where} has the server {server!r}; give a URL, such as https://10.0.0.1:6443"
            )
    for field in _DATA[kind]:
        data = entry.get(field)
        if data is None:
            continue
        try:
            base64.b64decode("".join(str(data).split()), validate=True)
        except ValueError:
            raise ConfigurationError(f"{where}: {field} is not base64; write the file anew") from None


def _is_url(server: object) -> bool:
    """Whether a server's text names a host, and a port that can be one."""
    try:
        url = urlsplit(server) if isinstance(server, str) else None
        return url is not None and url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _expanded(text: str) -> Path | None:
    return Path(os.path.expanduser(text)) if text else None


def _content(file: Path) -> dict[str, Any]:
    remedy = "give a file of kind Config, as kubectl uses"
    try:
        text = file.read_bytes()
        content = yaml.safe_load(text)
    except OSError as error:
        raise ConfigurationError(
            f"kubeconfig {file}: {error.strerror}; make it a file the agent can read"
        ) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise ConfigurationError(f"kubeconfig {file} {_why(text)}; {remedy}") from None
    if not isinstance(content, dict) or content.get("kind", "Config") != "Config":
        raise ConfigurationError(f"{file} is not a kubeconfig; {remedy}")
    return content


def _why(text: bytes) -> str:
    """Say of a text that the YAML library refuses why, in our own words."""
    try:
        for _ in yaml_documents(text):
            pass
    except UnreadableError as error:
        return f"is not YAML: {error}"
    return "is not one document of plain values"


def _entries(contents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Return the contexts, clusters or users by name, of one name the first."""
    found: dict[str, dict[str, Any]] = {}
    for content in contents:
        entries = content.get(f"{kind}s")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and "name" in entry:
                fields = entry.get(kind)
                found.setdefault(str(entry["name"]), fields if isinstance(fields, dict) else {})
    return found
