"""Timing: operator rows by hand, orders that must hold, and what several cards have to tell each other."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from fromzero.facts.cards import catalogue, find_card
from fromzero.machine.measured import DeviceBench
from fromzero.planner.kernels import Setting, era, path, timed
from fromzero.planner.operators import Cost, costs
from fromzero.planner.timing import (
    DOUBTS,
    LINKS,
    Length,
    as_measured,
    calibration,
    communication,
    doubts,
    energy,
    exposed,
    timing,
    watts,
)
from fromzero.planner.trace import Trace
from fromzero.records import Card

aten = torch.ops.aten
BIG = Cost("mm", "gemm", "float16", 2.0 * 8192**3, 3 * 2.0 * 8192**2, dims=(8192, 8192, 8192, 1, 1, 1))
CPU = Card(name="cpu", series="cpu", form="cpu", bandwidth=2e10, rates={"fp32": 2e11}, sms=2)


def of(operator, *args, **kwargs):
    return costs(operator, args, kwargs, operator(*args, **kwargs))


def meta(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


def step_of(*rows):
    return Trace((), {}, rows, 1)


def seconds(card, *rows, **words):
    return timing(step_of(*rows), Setting(card, **words), Length(0, 1, 1)).step


def convolved(channels=64, filters=128, side=3, groups=1, stride=1, layout=torch.contiguous_format):
    x = meta(4, channels, 16, 16).contiguous(memory_format=layout)
    weight = meta(filters, channels // groups, side, side)
    words = ([stride] * 2, [side // 2] * 2, [1, 1], False, [0, 0], groups)
    [forward] = of(aten.convolution.default, x, weight, None, *words)
    grad = meta(4, filters, 16 // stride, 16 // stride)
    return forward, of(aten.convolution_backward.default, grad, x, weight, [filters], *words, [True, True, True])


# --- operator rows --------------------------------------------------------------------------------------------------


def test_a_convolution_and_its_gradients_are_rows_of_their_own():
    forward, backward = convolved()
    assert (forward.kind, forward.layout, forward.dims) == ("conv", "nchw", (1024, 128, 576, 1, 9, 1))
    assert forward.flops == 2 * 1024 * 128 * 576
    assert [each.kind for each in backward] == ["conv.dgrad", "conv.wgrad", "reduce.outer"]
    assert backward[0].flops == backward[1].flops == forward.flops


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ({"side": 1}, "conv1x1"),
        ({"channels": 3}, "stem"),
        ({"groups": 32}, "grouped"),
        ({"groups": 64, "filters": 64}, "depthwise"),
    ],
)
def test_kinds_of_convolution(words, kind):
    assert convolved(**words)[0].kind == kind


def test_layout_follows_the_strides():
    assert convolved(layout=torch.channels_last)[0].layout == "nhwc"


def test_products_know_their_shape():
    [row] = of(aten.addmm.default, meta(32), meta(8, 16), meta(16, 32))
    assert (row.kind, row.dims, row.flops) == ("gemm", (8, 32, 16, 1, 1, 1), 2 * 8 * 16 * 32)
    [row] = of(aten.bmm.default, meta(4, 8, 16), meta(4, 16, 32))
    assert (row.kind, row.dims) == ("bmm", (8, 32, 16, 4, 1, 1))


@pytest.mark.parametrize(
    ("operator", "args", "kind"),
    [
        (aten.clone.default, (meta(8, 8),), "copy"),
        (aten._to_copy.default, (meta(8, 8),), "copy"),
        (aten.relu.default, (meta(8, 8),), "elementwise"),
        (aten.gelu.default, (meta(8, 8),), "activation"),
        (aten.cat.default, ([meta(8, 8), meta(8, 8)],), "cat"),
        (aten.sum.dim_IntList, (meta(8, 8), [1]), "reduce"),
        (aten.sum.dim_IntList, (meta(8, 8), [0]), "reduce.outer"),
    ],
)
def test_kinds_of_traffic(operator, args, kind):
    [row] = of(operator, *args)
    assert row.kind == kind
    assert not row.flops


def test_casts_and_transposed_copies_are_told_apart():
    x = meta(4, 8, 16)
    assert of(aten._to_copy.default, x, dtype=torch.float32)[0].kind == "cast"
    turned = of(aten.clone.default, x.transpose(1, 2), memory_format=torch.contiguous_format)
    assert turned[0].kind == "transpose.inner"
    moved = of(aten.clone.default, x.transpose(0, 1), memory_format=torch.contiguous_format)
    assert moved[0].kind == "transpose.outer"


def test_bytes_are_those_of_distinct_elements():
    [row] = of(aten.add.Tensor, meta(8, 16), meta(16).expand(8, 16))
    assert row.bytes == 2 * (8 * 16 + 16 + 8 * 16)
    [row] = of(aten.embedding.default, meta(1000, 64), torch.zeros(8, dtype=torch.long, device="meta"))
    assert row.bytes == 8 * 8 + 2 * 2 * 8 * 64


def test_views_cost_nothing():
    assert of(aten.view.default, meta(8, 8), [64]) == []


def test_a_recurrent_layer_is_one_operator_of_many_steps():
    weights = [meta(64, 16), meta(64, 16), meta(64), meta(64)]
    x, state = meta(10, 4, 16), meta(1, 4, 16)
    args = (x, weights, 4, None, state, state, 2, 16, 0, 1, False, 0.0, True, False, [], None)
    [row] = costs(aten._cudnn_rnn.default, args, {}, (meta(10, 4, 16), state, state, meta(1), meta(1)))
    assert (row.kind, row.launches, row.flops) == ("rnn", 10, 2 * 40 * 64 * 32)


# --- seconds --------------------------------------------------------------------------------------------------------


def test_a_product_takes_about_what_its_peak_says():
    card = find_card("RTX 3090")
    ideal = BIG.flops / card.rates["fp16"]
    assert 0.8 * ideal < seconds(card, BIG) < 2 * ideal


def test_traffic_takes_about_what_the_bandwidth_says():
    card = find_card("RTX 3090")
    ideal = 4e9 / card.bandwidth
    row = Cost("relu", "elementwise", "float32", 0.0, 4e9)
    assert 0.9 * ideal < seconds(card, row) < 1.8 * ideal


def test_faster_cards_are_faster():
    order = ["GTX 1060 6GB", "RTX 2060 6 GB", "RTX 3060 12 GB", "RTX 3090", "RTX 4090", "RTX 5090"]
    found = [seconds(find_card(name), BIG) for name in order]
    assert found == sorted(found, reverse=True)


def test_half_precision_gains_nothing_on_pascal():
    card = find_card("GTX 1080 Ti")
    assert seconds(card, BIG) == pytest.approx(seconds(card, dataclasses.replace(BIG, dtype="float32")), rel=0.2)


def test_a_power_limit_slows_arithmetic_down():
    card = find_card("RTX 3090")
    assert seconds(dataclasses.replace(card, tdp_watts=100.0), BIG) > 1.1 * seconds(card, BIG)


def test_every_card_and_the_cpu_get_a_time_inside_its_interval():
    rows = (BIG, *convolved()[1], Cost("", "elementwise", "float32", 0.0, 1e6), Cost("", "new kind", "other", 0.0, 9.0))
    for card in (*catalogue(), CPU):
        time = timing(step_of(*rows), Setting(card), Length(100, 2, 10))
        assert 0 < time.low < time.step < time.high < math.inf
        assert time.total == pytest.approx(2 * time.epoch) == pytest.approx(20 * time.step)


def test_equal_operators_are_timed_once():
    card = find_card("RTX 3090")
    found = timed((BIG, BIG, BIG), Setting(card), calibration())
    assert found.count.tolist() == [3.0]
    assert found.seconds.sum() == pytest.approx(3 * timed((BIG,), Setting(card), calibration()).seconds.sum())


def test_half_rate_tensor_cores_slow_only_what_uses_more_than_half():
    """GeForce: the same chip with half the accumulation rate costs a large product, and hardly a narrow one."""
    full = find_card("RTX A6000")
    halves = {name: full.rates[name] / 2 for name in ("fp16", "bf16", "tf32")}
    half = dataclasses.replace(full, rates={**full.rates, **halves}, tdp_watts=0.0)
    full = dataclasses.replace(full, tdp_watts=0.0)
    narrow = Cost("", "gemm", "float16", 2.0 * 65536 * 32 * 64, 1e5, dims=(65536, 32, 64, 1, 1, 1))
    assert seconds(half, BIG) > 1.2 * seconds(full, BIG)
    assert 1 <= seconds(half, narrow) / seconds(full, narrow) < 1.1


def test_enlarging_small_pictures_waits_for_memory_on_any_card():
    [row] = of(aten.upsample_bilinear2d.default, meta(64, 256, 7, 7), [14, 14], False)
    assert (row.kind, row.launches) == ("upsample", 64 * 256)
    slow, fast = (seconds(find_card(name), row) for name in ("RTX 3090", "RTX 5090"))
    assert slow == pytest.approx(fast, rel=0.05)
    [row] = of(
        aten.upsample_bilinear2d.default,
        meta(64, 256, 7, 7).contiguous(memory_format=torch.channels_last),
        [14, 14],
        False,
    )
    assert row.launches == 1


def test_a_laptop_chip_holds_the_clock_of_its_limit():
    card = find_card("RTX 2080 Max-Q")
    assert seconds(card, BIG) == seconds(dataclasses.replace(card, tdp_watts=0.0), BIG)


def test_phases_and_host_are_parts():
    rows = [dataclasses.replace(BIG, phase=phase) for phase in ("forward", "backward", "optimizer")]
    time = timing(step_of(*rows), Setting(find_card("RTX 3090")), Length(0, 1, 1))
    assert time.parts.keys() == {"forward", "backward", "optimizer", "host"}
    assert time.step == pytest.approx(sum(time.parts[each] for each in ("forward", "backward", "optimizer")))


def test_paths():
    turing, pascal = Setting(find_card("RTX 2080 Ti")).make, Setting(find_card("GTX 1080")).make
    ampere = Setting(find_card("RTX 3090")).make
    assert path("gemm", "float16", turing) == ("tensor", "fp16")
    assert path("gemm", "float16", pascal) == ("simt", "fp32")
    assert path("conv", "float32", ampere)[0] == "tf32"
    assert path("gemm", "float32", ampere)[0] == "simt"
    assert path("gemm", "float32", Setting(find_card("RTX 3090"), tf32=True).make)[0] == "tf32"
    assert path("depthwise.wgrad", "float16", ampere)[0] == "simt"


def test_releases_count_among_eras():
    assert [era(each) for each in ("1.4.0a0+a5b", "1.8", "1.12.1", "2.1.0", "2.14.1+cu130", "")] == list("012344")


# --- a card that was measured ---------------------------------------------------------------------------------------


def product(dtype, size):
    return Cost("", "gemm", dtype, 2.0 * 8192**3, 3.0 * size * 8192**2, dims=(8192, 8192, 8192, 1, 1, 1))


def test_a_measured_card_is_predicted_as_it_was_measured():
    card = find_card("RTX 3090")
    rates, bandwidth = {"fp32": 20e12, "fp16": 55e12, "tf32": 30e12}, 0.7e12
    own = as_measured(card, DeviceBench(device="cuda:0", card=card.title, rates=rates, bandwidth=bandwidth))
    for row, rate, tf32 in ((product("float32", 4), 20e12, False), (product("float16", 2), 55e12, False)):
        assert row.flops / seconds(own, row, tf32=tf32) == pytest.approx(rate, rel=0.02)
    copied = Cost("", "copy", "float32", 0.0, 2.0 * (256 << 20))
    assert copied.bytes / seconds(own, copied) == pytest.approx(0.7e12, rel=0.02)
    assert Setting(own).make.halved and own.rates["int8"] == card.rates["int8"]


def test_a_record_of_another_card_or_a_disturbed_one_changes_nothing():
    card = find_card("RTX 3090")
    assert as_measured(card, None) is card
    assert as_measured(card, DeviceBench(device="cuda:0", card="RTX 4090", rates={"fp32": 20e12})) is card
    slow = as_measured(card, DeviceBench(device="cuda:0", card=card.title, rates={"fp32": 1e12}, bandwidth=1e9))
    assert slow == card


# --- doubts ---------------------------------------------------------------------------------------------------------


def test_hard_cases_are_named_and_widen_the_interval():
    card = find_card("RTX 3090")
    large = dataclasses.replace(convolved(groups=64, filters=64, side=7)[0], flops=1e12)
    assert doubts(step_of(large), Setting(card)) == ("large_depthwise",)
    grouped = dataclasses.replace(convolved(groups=32, layout=torch.channels_last)[0], flops=1e13)
    assert doubts(step_of(grouped), Setting(card)) == ("grouped_channels_last",)
    assert doubts(step_of(BIG), Setting(card)) == ()
    assert "host_bound" in doubts(step_of(*[Cost("", "elementwise", "float32", 0.0, 64.0)] * 99), Setting(card))
    assert "low_power" in doubts(step_of(BIG), Setting(find_card("Tesla T4")))
    assert "unseen_architecture" in doubts(step_of(BIG), Setting(dataclasses.replace(card, architecture="Rubin")))
    assert doubts(step_of(BIG), Setting(CPU)) == ("cpu",)
    plain, wide = (timing(step_of(each), Setting(card), Length(0, 1, 1)) for each in (BIG, large))
    assert wide.high / wide.step >= plain.high / plain.step


def test_every_doubt_has_a_sentence():
    from fromzero.language import say

    for code in DOUBTS:
        assert say(f"advice.doubt.{code}", card="X")


# --- energy and several cards ---------------------------------------------------------------------------------------


def test_energy_lies_between_idle_and_the_limit():
    card, step = find_card("RTX 3090"), step_of(BIG)
    time = timing(step, Setting(card), Length(1000, 1, 1))
    assert 0.5 * card.tdp_watts < watts(time, Setting(card), step) < card.tdp_watts
    assert energy(3600.0, 300.0).cost is None
    paid = energy(3600.0, 300.0, tariff=0.5, currency="EUR")
    assert paid.kwh == pytest.approx(0.3) and paid.cost == pytest.approx(0.15) and paid.currency == "EUR"


def test_communication():
    assert communication(1e9, 1, "pcie4") == 0
    assert communication(1e9, 2, "pcie4", "all-gather") == pytest.approx(communication(1e9, 2, "pcie4") / 2)
    assert communication(1e9, 4, "nvlink-4") < communication(1e9, 4, "nvlink-2") < communication(1e9, 4, "pcie3")
    for link in LINKS:
        assert 1e9 / LINKS[link] < communication(1e9, 8, link) < 10 * 1e9 / LINKS[link]
    assert exposed(1.0, backward=10.0) == pytest.approx(0.1)
    assert exposed(10.0, backward=1.0) == pytest.approx(9.1)


def test_a_traced_step_has_no_unknown_kinds():
    """Every kind a real step shows has a fitted parameter."""
    x = torch.randn(2, 3, 8, 8)
    parameters = calibration().parameters
    for rows in (convolved()[1], of(aten.relu.default, meta(4, 4)), of(aten._softmax.default, meta(4, 4), -1, False)):
        assert all(f"memory.{each.kind}" in parameters for each in rows)
    assert functional.relu(x).shape == x.shape
