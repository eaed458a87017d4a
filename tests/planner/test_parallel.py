"""One card's share of a step, where it can be counted by hand."""

from __future__ import annotations

import pytest

from fromzero.planner.parallel import ddp, fsdp, gradient_bytes, offload_optimizer, state_bytes, weight_bytes
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
