"""The documentation agrees with the code, and its links lead somewhere."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from agent import __version__
from agent.commands.cli import main
from agent.kube.model import Kind
from agent.observe.health import Health, readyz
from agent.observe.health import text as health_text
from agent.sources.source import SyncState
from tests.demo import show
from tests.demo.examples import read
from tests.demo.picture import STEPS
from tests.docs import (
    METRICS_PAGE,
    ROOT,
    SETTINGS_PAGE,
    documents,
    metrics_page,
    settings_page,
    with_part,
)
from tests.docs.wrap import too_long, wrapped
from tests.lab.kube_build import VERSION

DOCUMENTS = documents()
OPERATIONS = ROOT / "docs/operations.md"
PICTURES = sorted(ROOT.glob("docs/*.svg"))


def test_generated_parts_are_as_the_code_has_them() -> None:
    assert SETTINGS_PAGE.read_text() == settings_page(SETTINGS_PAGE.read_text()), "run make fmt"


def test_metrics_page_is_up_to_date() -> None:
    assert METRICS_PAGE.read_text() == metrics_page(METRICS_PAGE.read_text()), "run make fmt"


def test_a_missing_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="no part settings"):
        with_part("nothing", "settings", "table")


def test_tests_that_compatibility_goes_by_are_there() -> None:
    text = (ROOT / "docs/compatibility.md").read_text()
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert f"kube-apiserver {VERSION}" in text
    for line in text.splitlines():
        if re.match(r"\|.*\| tested \|", line):
            assert re.search(r"`tests/|every test|the same tests", line), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_wrapped(document: Path) -> None:
    assert too_long(document.read_text()) == [], "run make fmt"


def test_lines_break_where_nothing_changes_its_meaning() -> None:
    """Not inside code, which a reader copies, nor before what would begin a list; tables and code stay."""
    table, fence = "| a | " + "b " * 80 + "|\n", "```text\n" + "y " * 80 + "\n```\n"
    stays = f"# Title\n\n{table}\n    make {'x' * 120}\n\n{fence}"
    assert wrapped(stays) == stays
    assert wrapped("word " * 23 + "`make lint`\n").endswith("\n`make lint`\n")
    assert wrapped("word " * 23 + "one or - as well\n").endswith(" one\nor - as well\n")
    assert wrapped("- " + "word " * 30 + "\n").splitlines()[1].startswith("  word")
    assert wrapped("one\ntwo\n\n- three\n  four\n- five\n") == "one two\n\n- three four\n- five\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    for target, part in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not part or part in anchors(path), f"{target}#{part}"


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_named_exist(document: Path) -> None:
    for path in re.findall(r"`((?:agent|tests|examples|deploy)/[\w./-]+)`", document.read_text()):
        assert (ROOT / path).exists(), path


def test_the_architecture_names_files_that_are_there() -> None:
    """A room's front door is in its folder; a file named without one is somewhere in the agent."""
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = re.findall(r"^\| `(agent/[\w/.]+)` \| ((?:`\w+\.py`(?:, )?)+) \|", text, re.MULTILINE)
    assert len(rooms) > 20
    for room, doors in rooms:
        folder = ROOT / room if (ROOT / room).is_dir() else (ROOT / room).parent
        assert [door for door in re.findall(r"\w+\.py", doors) if not (folder / door).exists()] == [], room
    known = {path.name for path in (ROOT / "agent").rglob("*.*")}
    assert set(re.findall(r"`(\w+\.(?:py|html))`", text)) <= known


def test_every_command_is_documented_with_its_exit_codes() -> None:
    text = OPERATIONS.read_text()
    for name, command in main.commands.items():
        assert len(re.findall(rf"^\| `netpol-agent {name}[ `]", text, re.MULTILINE)) == 1, name
        assert "Exit codes: 0" in (command.help or ""), name


def test_every_option_of_the_agent_that_is_named_exists() -> None:
    helps = "".join(CliRunner().invoke(main, [name, "--help"]).output for name in main.commands)
    for document in (path for path in DOCUMENTS if path.name != "benchmark.md"):
        # Alone in its quotes, and so of no other program.
        for option in set(re.findall(r"`(--[a-z][a-z-]+)", document.read_text())):
            assert option in helps, f"{document.name}: {option}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", document.read_text(), re.MULTILINE)) <= targets


def test_the_answer_of_readyz_that_is_shown_is_what_is_printed() -> None:
    names = ("links", "pod-links", "source-namespace", "source-networkpolicy", "source-pod", "source-probe")
    caches = {
        kind: SyncState(kind is not Kind.POD, 0, 5.0, 5.0) for kind in (*Kind,) if kind is not Kind.NODE
    }
    health = Health(5.0, 5.0, caches, applied=False, threads=dict.fromkeys(names, True))
    printed = health_text(readyz(health))
    assert f"```text\n{printed}```\n" in OPERATIONS.read_text()


def test_the_image_is_set_with_the_tag_that_is_pushed() -> None:
    commands = (ROOT / "deploy/README.md").read_text()
    (pushed,) = re.findall(r"docker push (\S+)", commands)
    name, _, tag = pushed.rpartition(":")
    assert f"sed -i 's|newName: .*|newName: {name}|' deploy/image/kustomization.yaml\n" in commands
    assert tag == __version__
    assert f"    newTag: {tag}\n" in (ROOT / "deploy/image/kustomization.yaml").read_text()


def test_what_is_installed_to_run_is_what_is_run() -> None:
    """The agent does without the commands of ipset and conntrack: nowhere are they asked for to run it."""
    for document in ("docs/install.md", "deploy/systemd/README.md"):
        text = (ROOT / document).read_text()
        assert "iptables" in text
        for unused in ("`ipset`", "`conntrack`", "install ipset", "install conntrack"):
            assert unused not in text


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_pictures_fetch_nothing(picture: Path) -> None:
    text = picture.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"//|@import|@font-face|<script|<image|href|url\((?!#)", text)


def test_the_picture_of_the_demo_shows_what_the_examples_say() -> None:
    """The tables of the picture, whose times are of the run that was drawn."""
    examples = read(ROOT / "examples")
    lines = [line.replace("\xa0", " ") for line in drawn_lines((ROOT / "docs/demo.svg").read_text())]
    before = show.expected(examples, examples.reach)
    for step in examples.steps[:STEPS]:
        now = show.expected(examples, step.reach)
        console = Console(file=io.StringIO(), width=78)
        console.print(show.table(examples, before, now, now))
        assert isinstance(console.file, io.StringIO)
        for line in console.file.getvalue().splitlines():
            assert "".join(line.split()) in lines
        before = now


def drawn_lines(svg: str) -> list[str]:
    """Return the lines of text of a picture, without spaces."""
    found: dict[float, str] = {}
    for y, text in re.findall(r'<text [^>]*\by="([\d.]+)"[^>]*>([^<]*)</text>', svg):
        found[float(y)] = found.get(float(y), "") + "".join(html.unescape(text).split())
    return [found[y] for y in sorted(found)]
