"""The list of mutations fits the code as it is, and a few of them are tried."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.bench import ROOT, misfit, unfit
from tests.mutation.catalogue import MUTATIONS
from tests.mutation.change import apply
from tests.mutation.model import Mutation, Selection

# One of the readers, one of the algebra, one of the tree: each is quick.
SAMPLE = ("default protocol UDP", "a lost except", "a tree leaf dropped")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_the_code_as_it_is(mutation: Mutation) -> None:
    assert not misfit(mutation)
    assert mutation.by


def test_mutations_have_names_of_their_own_and_every_selection_is_asked() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
    assert {selection for mutation in MUTATIONS for selection in mutation.by} == set(Selection)


def test_every_selection_is_a_test() -> None:
    for selection in Selection:
        file, _, name = selection.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(), selection


def test_a_misfit_is_told() -> None:
    fine = MUTATIONS[0]
    assert "0 times" in misfit(fine._replace(original="no_such_thing"))
    assert "is gone" in misfit(fine._replace(symbol="agent.none:nothing"))
    assert "would not be Python" in misfit(fine._replace(replacement="return ("))


SOURCE = """
LIMIT = 3


class Door:
    def opens(self, key):
        # What is said of it changes nothing.
        found = [self.lock, *self.others,
                 key]
        if key == self.lock and not self.shut:
            self.count += 1
            return True
        return self.count < LIMIT
"""


@pytest.mark.parametrize(
    ("symbol", "original", "replacement", "line"),
    [
        ("Door.opens", "key == self.lock", "key != self.lock", "if key != self.lock and (not self.shut):"),
        ("Door.opens", "[self.lock, *self.others, key]", "[]", "found = []"),
        ("Door.opens", "*self.others,", "", "found = [self.lock, key]"),
        ("Door.opens", "*self.others, key,", "1, 2,", "found = [self.lock, 1, 2]"),
        ("Door.opens", "self.count += 1", "self.count -= 1", "self.count -= 1"),
        ("Door.opens", "self.count += 1\nreturn True", "", "pass"),
        ("Door", "return True", "return False", "return False"),
        ("LIMIT", "3", "4", "LIMIT = 4"),
    ],
)
def test_a_mutation_is_of_what_a_symbol_says_not_of_how_it_is_laid_out(
    tmp_path: Path, symbol: str, original: str, replacement: str, line: str
) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "door.py").write_text(SOURCE)
    mutation = MUTATIONS[0]._replace(original=original, replacement=replacement)
    for module in ("agent.door", "agent.where_it_was"):
        file, text = apply(mutation._replace(symbol=f"{module}:{symbol}"), tmp_path)
        assert file == "agent/door.py"
        assert line in [found.strip() for found in text.splitlines()]


def test_a_few_mutations_are_caught_and_the_tree_stays_as_it_is() -> None:
    chosen = [part for name in SAMPLE for part in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation", "--json", *chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {entry["mutation"] for entry in found} == set(SAMPLE)
    assert all(entry["caught"] and entry["caught_by"] for entry in found)
    assert not unfit([mutation for mutation in MUTATIONS if mutation.name in SAMPLE])
