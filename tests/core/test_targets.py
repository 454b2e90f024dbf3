"""Which tests run: the targets together leave out no test, and `check` leaves out no pair of
values."""

import itertools

import pytest
from targets import covering, runs

MARKS = ("big", "thorough", "partly", "hypothesis", "slow", "pairwise")
SETS = [set(s) for n in range(len(MARKS) + 1) for s in itertools.combinations(MARKS, n)]


@pytest.mark.parametrize("marks", SETS, ids=lambda s: "+".join(sorted(s)) or "none")
def test_all_is_check_and_the_rest(marks):
    assert runs("all", marks) == (runs("check", marks) or runs("rest", marks))
    assert runs("big", marks) and (not runs("short", marks) or runs("check", marks))
    # A test that both targets run is one that check runs in part.
    assert not (runs("check", marks) and runs("rest", marks)) or marks & {"partly", "hypothesis"}


@pytest.mark.parametrize("sizes", [(3, 4), (2, 2, 2), (5, 3, 4, 2), (6, 6, 5, 4)], ids=str)
def test_covering(sizes):
    rows = list(itertools.product(*(range(n) for n in sizes)))
    chosen = [rows[i] for i in covering(rows)]
    for a, b in itertools.combinations(range(len(sizes)), 2):
        met = {(row[a], row[b]) for row in chosen}
        assert met == set(itertools.product(range(sizes[a]), range(sizes[b])))
    assert len(chosen) <= 1.5 * max(a * b for a, b in itertools.combinations(sizes, 2))


def test_covering_of_what_goes_together():
    """Values that are given together count as one choice, and repeated rows count once."""
    rows = [(m, form, d) for (m, form), d in itertools.product(("aA", "bB"), (1, 2))] * 2
    assert sorted(rows[i] for i in covering(rows)) == sorted(rows[:4])
