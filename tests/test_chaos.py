"""Each kind of fit, killed in each way; ``python -m tests.chaos`` does it for longer."""

import os

import pytest

from tests.chaos.rounds import CASES, FAULTS, run_rounds, table

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes can't be forked")


def test_whatever_kills_a_fit_it_goes_on_and_ends_in_the_same_bits():
    counts, faults = run_rounds(range(len(CASES)), seed=1, most_kills=1, jobs=2)
    assert faults == [], table(counts)
    for count in counts.values():
        assert (count["rounds"], count["kills"], count["resumed"]) == (1, 1, 1)
        assert [count[fault] for fault in FAULTS] == [0] * len(FAULTS)
