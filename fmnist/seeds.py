"""Seeds as a function of the epoch, so that a resumed run draws the numbers of an uninterrupted one."""

import os

import numpy as np


def mix_seeds(*numbers: int) -> int:
    """Makes one 64-bit seed of several non-negative numbers; close numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def global_seed() -> int:
    """Returns the seed given to Lightning's ``seed_everything``, or torch's where that was not called.

    It is read from the variable in which ``seed_everything`` keeps it: torch's own seed is set anew in every epoch.
    """
    import torch  # a sweep mixes seeds, and would wait three seconds for an import that it does not need

    return int(os.environ.get("PL_GLOBAL_SEED") or torch.initial_seed())
