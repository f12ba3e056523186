"""Seeds that depend on where a run stands, so that a resumed run draws what it would have drawn."""

import numpy as np


def mix_seeds(*numbers: int) -> int:
    """Makes one 64-bit seed of several non-negative numbers; close numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
