"""One card's share of a step, where it can be counted by hand."""

from __future__ import annotations

import pytest

from fromzero.planner.parallel import (
    ddp,
    fsdp,
    gradient_bytes,
    micro_batches,
    offload_optimizer,
    pipeline,
    stage_starts,
    state_bytes,
    weight_bytes,
)
from fromzero.planner.timing import LINKS, communication, link_rate
from fromzero.planner.trace import Event, Moment, Trace

W, A = 1000, 400  # bytes of one block's weights, and of one block's activation


def step():
    """Two blocks: forward a, forward b, backward b, backward a, optimizer; state of two numbers a weight."""
    moments = (
        Moment("forward", "a", "mm"), Moment("forward", "b", "mm"), Moment("backward", "b", "mm"),
        Moment("backward", "a", "mm"), Moment("optimizer", "", "addcdiv"),
    )  # fmt: skip
    events = (
        Event(+1, 1, W, 0), Event(+1, 2, W, 0), Event(+1, 3, 2 * W, 0), Event(+1, 4, 2 * W, 0),
        Event(+1, 5, A, 0), Event(+1, 6, A, 1), Event(+1, 7, W, 2), Event(-1, 6, A, 2),
        Event(+1, 8, W, 3), Event(-1, 5, A, 3), Event(+1, 9, W, 4), Event(-1, 9, W, 4),
        Event(-1, 7, W, 4), Event(-1, 8, W, 4),
    )  # fmt: skip
    parts = {1: "weights", 2: "weights", 3: "optimizer", 4: "optimizer", 5: "activations", 6: "activations"}
    parts |= {7: "gradients", 8: "gradients", 9: "activations"}
    places = {1: "a", 2: "b", 3: "a", 4: "b"}
    return Trace(events, parts, (), 1, moments, (0,), places, frozenset(), ("a", "b"))


def test_the_sizes_that_cards_exchange():
    assert gradient_bytes(step()) == 2 * W
    assert weight_bytes(step()) == 2 * W
    assert state_bytes(step()) == 4 * W


def test_ddp_keeps_the_gradients_twice():
    assert ddp(step()).live_peak() == step().live_peak() + 2 * W


def test_offloading_takes_the_state_and_the_step_off_the_card():
    assert step().live_peak() == 9 * W  # weights 2, state 4, gradients 2, a temporary of the optimizer
    assert offload_optimizer(step()).live_peak() == 4 * W + A


def test_a_block_that_outlives_its_phase_is_taken_and_given_back_alike():
    import dataclasses

    plain = step()
    late = (Event(+1, 20, A, 3), Event(-1, 20, A, 4))  # made in the backward pass, dropped in the optimizer's step
    after = (Event(+1, 21, A, 4), Event(-1, 21, A, 5))  # made by the optimizer, dropped in the next forward pass
    both = dataclasses.replace(
        plain,
        events=(*plain.events, *late, *after),
        parts={**plain.parts, 20: "activations", 21: "activations"},
        moments=(*plain.moments, Moment("forward", "a", "mm")),
    )
    for share in (offload_optimizer(both), fsdp(both, 2)):
        balance = {}
        for event in share.events:
            balance[event.block] = balance.get(event.block, 0) + event.sign
        assert balance[20] == 0 and balance.get(21, 0) == 0
    assert 21 not in {each.block for each in offload_optimizer(both).events}


@pytest.mark.parametrize("cards", [2, 4])
def test_fsdp_divides_what_lasts_and_gathers_a_block_at_a_time(cards):
    whole, share = step(), fsdp(step(), cards)
    lasting = 6 * W // cards
    # while a block runs backward: what lasts, its full weights and those of the next one, its full gradients,
    # the reduced gradients so far and the activations
    assert share.live_peak() <= lasting + 2 * W + W + 2 * W // cards + 2 * A
    assert share.live_peak() < whole.live_peak()
    ends = {}
    for event in share.events:
        ends[event.block] = ends.get(event.block, 0) + event.sign
    assert {block for block, count in ends.items() if count} == {1, 2, 3, 4}  # what lasts; the rest is given back


def test_keeping_the_gathered_weights_costs_more():
    assert fsdp(step(), 4, reshard=False).live_peak() >= fsdp(step(), 4).live_peak()


def test_precision_copies_of_weights_are_the_gathered_weights():
    import dataclasses

    plain = step()
    cast = dataclasses.replace(
        plain,
        events=(*plain.events[:4], Event(+1, 10, W // 2, 0), *plain.events[4:], Event(-1, 10, W // 2, 4)),
        parts={**plain.parts, 10: "activations"},
        casts=frozenset({10}),
    )
    assert weight_bytes(cast) == W  # half precision
    assert not any(each.block == 10 for each in fsdp(cast, 2).events)


def test_a_stage_holds_its_blocks_and_its_share_of_the_rest():
    share = pipeline(step(), 2)
    assert share.live_peak() == 4 * W + W // 2  # weights 1, state 2, gradient 1, half of the optimizer's temporary
    balance = {}
    for event in share.events:
        balance[event.block] = balance.get(event.block, 0) + event.sign * event.size
    assert balance[7 if 7 in balance else 8] == 0
    with pytest.raises(ValueError, match="2"):
        pipeline(step(), 3)


def test_a_pipeline_holds_few_of_many_micro_batches():
    import dataclasses

    whole = dataclasses.replace(step(), batch=16)
    events = [each for number in (0, 1) for each in pipeline(whole, 2).events if each.block == 5 + number]
    assert {each.size for each in events} <= {A * 2 // 8, A * 1 // 8}  # 2 (or 1) of 8


@pytest.mark.parametrize("rows, stages, parts", [(64, 4, 16), (12, 4, 12), (7, 4, 7), (34, 2, 2), (1, 2, 1)])
def test_micro_batches_are_equal_parts(rows, stages, parts):
    assert micro_batches(rows, stages) == parts


@pytest.mark.parametrize(
    "sizes, stages, starts",
    [([1, 1, 1, 1], 2, [2]), ([9, 1, 1, 1], 2, [1]), ([1, 1, 1, 9], 4, [1, 2, 3]), ([1] * 12, 3, [4, 8])],
)
def test_stages_have_about_as_many_weights(sizes, stages, starts):
    assert stage_starts(sizes, stages) == starts


def test_a_ring_through_several_machines_is_as_fast_as_its_slowest_link():
    inside = communication(1e9, 8, "nvlink-4")
    assert inside < communication(1e9, 8, "nvlink-4", network=100e9) < communication(1e9, 8, "nvlink-4", network=10e9)
    assert communication(1e9, 8, "pcie3", network=1e15) >= communication(1e9, 8, "pcie3")
    assert link_rate("pcie3") < LINKS["pcie3"]
    assert communication(1e9, 16, "pcie4", network=10e9) == pytest.approx(
        2 * 15 / 16 * 1e9 / 1e9, rel=0.01
    )  # 10 Gbit/s, 80 %
