"""A file's bytes to the documents in it, in any form that ``kubectl apply -f`` reads.

YAML or JSON, whatever the file is called; JSON documents one after another; UTF-8, or UTF-16 with its byte
order mark, as PowerShell writes. What belongs to Helm and Kustomize is told from manifests.
"""

from __future__ import annotations

import codecs
import re
from pathlib import PurePath

from agent.kube.text import (
    Document,
    NotJsonError,
    UnreadableError,
    json_documents,
    yaml_documents,
)

_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_TOOLS = (
    (re.compile(r"kustomization\.ya?ml", re.IGNORECASE), "Kustomize"),
    (re.compile(r"(Chart|requirements)\.ya?ml|values\.schema\.json"), "Helm"),
    (re.compile(r"(.*[-_.])?values([-_.].*)?\.ya?ml"), "Helm"),
)
"""What a file is of that describes no objects itself, by its name."""

NOT_APPLIED = "files are read as they stand, without its namespace and patches"
"""What people are told of a kustomization."""

_OF_KUSTOMIZE = ("Kustomization", "Component")

_HELM = re.compile(
    rb"\{\{-?\s*(?:/\*|if|else|end|range|with|define|include|template|block|toYaml|tpl)\b"
    rb"|\{\{[^{}\n]*\.(?:Values|Release|Chart|Capabilities|Files|Template)\b"
)
"""What only Helm writes; braces alone are in many an annotation, too."""


def documents(text: bytes, *, is_json: bool = False, name: str = "") -> list[Document]:
    """Return the documents of a text; of a file of Kustomize's or Helm's that holds no object, none.

    ``is_json``: the file is called so; a JSON text that is broken is then no YAML. ``name`` is the file's,
    where it has one. Raises UnreadableError.
    """
    text = _in_utf8(text)
    found: list[Document]
    try:
        found = _documents(text, is_json=is_json)
    except UnreadableError as error:
        if template := _HELM.search(text):
            raise is_a_template(text.count(b"\n", 0, template.start()) + 1) from None
        raise error from None
    tool = tool_of(name)
    return [] if tool and not any(_may_be_an_object(tool, data) for _, data in found) else found


def is_a_template(line: int) -> UnreadableError:
    """Return the error that says that a text is a Helm template."""
    return UnreadableError(
        f"line {line}: a Helm template ({{{{ ... }}}}), not a manifest; render it first with helm template"
    )


def tool_of(name: str) -> str:
    """Return whose a file is by its name, where it is of a tool that makes manifests; else ""."""
    base = PurePath(name).name
    return next((tool for pattern, tool in _TOOLS if pattern.fullmatch(base)), "")


def is_kustomization(ignored: str) -> bool:
    """Whether what was passed over, as a reading says it, is a file of Kustomize's."""
    return ignored.endswith(" of Kustomize")


def is_ended(text: bytes) -> bool:
    """Whether a text's last line has an end, in UTF-8 or UTF-16."""
    return text.endswith((b"\n", b"\n\0"))


def _documents(text: bytes, *, is_json: bool) -> list[Document]:
    looks_so = text.lstrip()[:1] in (b"{", b"[", b"")
    if not looks_so or not (is_json or text.strip()):
        return list(yaml_documents(text))
    try:
        return list(json_documents(text))
    except NotJsonError:
        if is_json:
            raise
    # YAML in its flow style begins as JSON does.
    return list(yaml_documents(text))


def _may_be_an_object(tool: str, data: object) -> bool:
    """Whether data may be an object, be it one that misses its kind: such a policy must not go unseen."""
    if not isinstance(data, dict):
        return data is not None
    fields = {"spec", "items"} if tool == "Kustomize" else {"kind", "metadata", "spec", "items"}
    return bool(fields & data.keys()) or data.get("kind", "Kustomization") not in _OF_KUSTOMIZE


def _in_utf8(text: bytes) -> bytes:
    if not text.startswith(_MARKS):
        return text.removeprefix(codecs.BOM_UTF8)
    try:
        return text.decode("utf-16").encode()
    except UnicodeError:
        raise UnreadableError("not UTF-16, though its first bytes say so; write the file in UTF-8") from None
