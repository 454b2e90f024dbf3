"""Decides which tests run: by target, and for `pairwise` tests by pairs of parameter values."""

import itertools
import os

TARGETS = ("check", "all", "rest", "big", "short")
TARGET = os.environ.get("FFTCONV_TESTS", "check")
# The number of examples that Hypothesis tries for each test.
EXAMPLES = int(os.environ.get("FFTCONV_EXAMPLES", {"check": 25, "short": 10}.get(TARGET, 200)))


def runs(target, marks):
    """Whether a target runs a test with these marks.

    The target "rest" runs the tests of "all" that "check" omits or runs only in part.
    """
    if "big" in marks:
        return target == "big"
    return {
        "check": "thorough" not in marks,
        "short": "thorough" not in marks and "slow" not in marks,
        "rest": bool({"thorough", "partly", "hypothesis"} & set(marks)),
    }.get(target, True)


def covering(rows):
    """Indices of a few rows that cover all pairs of values.

    rows: the parameter values of each test of a product.  Any two values that occur together
    in a row also occur together in one of the chosen rows.  The choice is greedy: each step
    takes the row with the most pairs that are still missing.
    """
    pairs = {i: set(itertools.combinations(list(enumerate(row)), 2)) for i, row in enumerate(rows)}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(pairs, key=lambda i: len(pairs[i] & missing))
        missing -= pairs.pop(best)
        chosen.append(best)
    return chosen
