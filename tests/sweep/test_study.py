"""``examples/optuna_study.py``: what it promises where several workers share a database, here one of SQLite."""

import pytest

from tests.conftest import source

pytestmark = [pytest.mark.signals, pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")]


def test_the_point_of_a_worker_that_is_killed_is_trained_again(script, few):
    code, out = script("study", *source(few), "--data.val_size=500", "--trials=6", "--trainer.max_epochs=3")
    assert code == 0, out
    *trials, best = out.splitlines()
    assert [line.split()[2] for line in trials].count("COMPLETE") == 6
    assert "(trial 0 again)" in out
    assert best.startswith("best: trial ")
