"""The list of mutations fits the code as it is, and a few of them are tried."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.mutation.bench import ROOT, misfit, unfit
from tests.mutation.catalogue import MUTATIONS
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


def test_a_misfit_is_told() -> None:
    fine = MUTATIONS[0]
    assert "0 times" in misfit(fine._replace(original="no such text"))
    assert "is gone" in misfit(fine._replace(file="agent/none.py"))
    assert "would not be Python" in misfit(fine._replace(replacement="return ("))


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
    assert not unfit(MUTATIONS)
