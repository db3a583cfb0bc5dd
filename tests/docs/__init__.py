"""The documentation: the parts of it that come from the code, and the commands that it shows.

``python -m tests.docs`` writes the former; test_commands.py runs the latter.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from agent.lint.registry import RULES
from agent.lint.rule import Rule
from agent.observe.metrics.definitions import METRICS
from agent.setting import Setting
from agent.settings import SETTINGS
from tests.docs.wrap import wrapped

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SETTINGS_PAGE = ROOT / "docs/settings.md"
METRICS_PAGE = ROOT / "docs/metrics.md"
LINT_PAGE = ROOT / "docs/lint.md"
LINT_EXAMPLES = ROOT / "tests/unit/lint/examples"


def documents() -> list[Path]:
    """Return every document that is for readers, in order of their paths."""
    below = (path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted([*ROOT.glob("*.md"), *(found for path in below for found in path.rglob("*.md"))])


def settings_table() -> str:
    """Return the table of every setting, in Markdown."""
    lines = ["| flag | environment | default | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{_flag(setting)}` | {_variables(setting)} | {_default(setting)} | {setting.help} |"
        for setting in SETTINGS
    ]
    return "\n".join(lines) + "\n"


def with_part(text: str, name: str, part: str) -> str:
    """Return a document with one generated part in its place; raises ValueError when it has none."""
    begin, end = f"<!-- {name}: made by make fmt -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the document has no part {name}")
    return pattern.sub(lambda _: f"{begin}\n{part}\n{end}", text)


def settings_page(text: str) -> str:
    """Return the page of settings with every generated part as the code has it now."""
    return with_part(text, "settings", settings_table())


def metrics_table() -> str:
    """Return the table of every metric, in Markdown."""
    lines = ["| metric | type | labels | series on a node | |", "| --- | --- | --- | --- | --- |"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.full_name}` | {metric.type} | {labels} | {metric.series} | {metric.help} |")
    return "\n".join(lines) + "\n"


def metrics_page(text: str) -> str:
    """Return the page of metrics with every generated part as the code has it now."""
    return with_part(text, "metrics", metrics_table())


def lint_page(text: str) -> str:
    """Return the page of lint's rules with every generated part as the code has it now."""
    return with_part(text, "rules", f"{_rules_table()}\n" + "\n".join(map(_rule_section, RULES)))


def _rules_table() -> str:
    lines = ["| rule | severity | |", "| --- | --- | --- |"]
    lines += [f"| [`{rule.id}`](#{rule.id}) | {rule.severity} | {rule.title} |" for rule in RULES]
    return "\n".join(lines) + "\n"


def _rule_section(rule: Rule) -> str:
    before, after = (
        (LINT_EXAMPLES / f"{rule.id}.{when}.yaml").read_text().splitlines() for when in ("before", "after")
    )
    example = [*difflib.unified_diff(before, after, n=1000, lineterm="")][3:]
    needs = f" It speaks when the input has {rule.needs}." if rule.needs else ""
    text = f"{rule.title}. {rule.why}{needs}\n\nRemedy: {rule.remedy}"
    body = "\n\n".join(wrapped(part).rstrip() for part in text.split("\n\n"))
    return f"### {rule.id}\n\n{body}\n\n```diff\n" + "\n".join(example) + "\n```\n"


def _flag(setting: Setting) -> str:
    if setting.switch:
        return setting.negative_flag if setting.default == "true" else setting.flag
    return f"{setting.flag} {setting.metavar}".replace("|", "\\|")


def _variables(setting: Setting) -> str:
    return ", ".join(f"`{variable}`" for variable in setting.environment)


def _default(setting: Setting) -> str:
    return setting.default_text if setting.default != setting.default_text else f"`{setting.default}`"
