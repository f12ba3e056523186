"""Damaged and hostile files, two hundred for each reader."""

import pytest

from tests.fuzz import TARGETS, fuzz


@pytest.mark.signals
@pytest.mark.parametrize("target", TARGETS)
def test_two_hundred_inputs(target):
    report = fuzz(target, 200, same=True)
    assert report.inputs >= 200
    assert report.accepted > 0
    assert (report.accepted < report.inputs) == (target != "compare"), "which shows what it cannot read as such"
