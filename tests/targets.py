"""Which tests run: the targets, and the part of a product in which all pairs of values meet."""

import itertools
import os

TARGETS = ("check", "all", "rest", "big", "short")
TARGET = os.environ.get("FFTCONV_TESTS", "check")
# Of hypothesis, for each test.
EXAMPLES = int(os.environ.get("FFTCONV_EXAMPLES", {"check": 25, "short": 10}.get(TARGET, 200)))


def runs(target, marks):
    """Does a target run a test with these marks?  Of `all`, rest is what check leaves out
    or runs a part of."""
    if "big" in marks:
        return target == "big"
    return {
        "check": "thorough" not in marks,
        "short": "thorough" not in marks and "slow" not in marks,
        "rest": bool({"thorough", "partly", "hypothesis"} & set(marks)),
    }.get(target, True)


def covering(rows):
    """Places of some of the rows: every two values that meet in one of all meet there."""
    pairs = {i: set(itertools.combinations(list(enumerate(row)), 2)) for i, row in enumerate(rows)}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(pairs, key=lambda i: len(pairs[i] & missing))
        missing -= pairs.pop(best)
        chosen.append(best)
    return chosen
