"""What makes a job fit: proposals that really fit, at the same effective batch, harmless ones first."""

from __future__ import annotations

import pytest

import fromzero
from fromzero.fitting import KEEPS, fit

SMALL = {"imgsz": 64, "classes": 10}


@pytest.fixture(scope="module")
def found():
    return fit("resnet18", card="GTX 1050 2 GB", batch=1024, **SMALL)


def test_proposals_fit_and_keep_the_effective_batch(found):
    asked, options = found
    assert asked.verdict == "does_not_fit"
    assert options
    for each in options:
        assert each.plan.verdict == "fits"
        assert each.plan.recipe.batch * each.plan.recipe.accumulate == 1024
        assert each.saves == asked.memory.process_peak - each.plan.memory.process_peak > 0
        assert each.changes and each.text


def test_harmless_changes_come_first_and_the_fastest_of_them(found):
    ranks = [(KEEPS.index(each.keeps), each.plan.time.step) for each in found[1]]
    assert ranks == sorted(ranks)
    assert found[1][0].keeps == "same"


def test_half_precision_is_not_proposed_where_the_card_has_none(found):
    assert not any("precision" in each.changes for each in found[1])


def test_a_proposal_is_a_recipe_that_plans_the_same(found):
    for each in found[1]:
        changed = {**each.changes}
        again = fromzero.plan("resnet18", card="GTX 1050 2 GB", **SMALL, **{"batch": 1024, **changed})
        assert again.memory.process_peak == each.plan.memory.process_peak


def test_fewer_checkpointed_blocks_where_fewer_are_enough():
    asked, options = fit("resnet18", card="GTX 1050 2 GB", batch=512, **SMALL)
    assert asked.verdict != "fits"
    ends = [int(each.changes["checkpointing"].partition("-")[2]) for each in options if "checkpointing" in each.changes]
    assert ends and all(1 <= each < 8 for each in ends)  # of eight blocks


def test_nothing_helps_a_picture_that_is_far_too_large():
    asked, options = fit("vgg11", card="GTX 1050 2 GB", batch=1, imgsz=2048)
    assert asked.verdict == "does_not_fit"
    assert options == ()
