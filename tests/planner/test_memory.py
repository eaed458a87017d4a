"""From blocks to the card: parts add up, the interval is in order, verdicts follow what the card can give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fromzero.facts.cards import find_card
from fromzero.facts.context import context
from fromzero.planner.memory import CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_FROM_9, memory, verdict
from fromzero.planner.trace import Event, Trace
from fromzero.records import Stack

MIB = 1 << 20
CARD = find_card("RTX 3060 12 GB")
TODAY = Stack(torch="2.14.1+cu130", os="linux")
OUTSIDE = context(CARD, TODAY)


def traced(*sizes, workspace=0):
    """Weights and activations of `sizes` MiB, all alive together; the activations' predecessors, half as large, are
    dead by then. A workspace comes last."""
    events, parts = [Event(+1, 1, sizes[0] * MIB)], {1: "weights"}
    for number, size in enumerate(sizes[1:], 1):
        events += [Event(+1, 100 + number, size * MIB // 2), Event(-1, 100 + number, size * MIB // 2)]
        events.append(Event(+1, 1 + number, size * MIB))
        parts |= {100 + number: "activations", 1 + number: "activations"}
    if workspace:
        events += [Event(+1, 999, workspace * MIB), Event(-1, 999, workspace * MIB)]
        parts[999] = "workspace"
    return Trace(tuple(events), parts, (), 1)


def card_of(mib):
    return replace(CARD, usable_bytes=mib * MIB)


def judged(trace, card, **words):
    return verdict(trace, card, memory(trace, card, TODAY), TODAY, **words)


def test_parts_add_up_to_the_peak_and_the_interval_holds_it():
    found = memory(traced(100, 300, 500, workspace=200), CARD, TODAY)
    assert sum(found.parts.values()) == found.process_peak == found.reserved_peak + OUTSIDE.expected
    assert found.parts["weights"] == 100 * MIB and found.parts["context"] == OUTSIDE.expected
    assert found.parts["workspace"] == 200 * MIB + CUBLAS_WORKSPACE
    assert found.low < found.process_peak < found.high
    assert found.allocated_peak >= 1100 * MIB


def test_cublas_keeps_more_from_hopper_on():
    step = traced(100)
    small, large = (memory(step, find_card(name), TODAY).parts["workspace"] for name in ("RTX 3060 12 GB", "RTX 5090"))
    assert (small, large) == (CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_FROM_9)


def test_verdicts_from_roomy_to_hopeless():
    step = traced(1000, 1000, 2000, workspace=1000)  # 5,000 MiB alive at most, 4,000 without the workspace
    verdicts = [judged(step, card_of(mib)) for mib in (12000, 7200, 4700, 4000)]
    assert verdicts == ["fits", "fits", "tight", "does_not_fit"]


def test_a_small_card_shows_a_smaller_peak_because_caches_are_given_back():
    step = traced(1000, 1000, 3000)  # 500 MiB are used again, 1,500 MiB are cached while 5,000 MiB are alive
    roomy, narrow = (memory(step, card_of(mib), TODAY) for mib in (12000, 6000))
    assert narrow.process_peak < roomy.process_peak
    assert narrow.process_peak <= 6000 * MIB
    assert narrow.allocated_peak == roomy.allocated_peak


def test_expandable_segments_reserve_less():
    step = traced(1000, 1000, 3000)
    assert memory(step, CARD, TODAY, expandable=True).reserved_peak < memory(step, CARD, TODAY).reserved_peak
    assert judged(step, card_of(6000), expandable=True) == "fits"
    assert judged(step, card_of(6000)) == "tight"


@pytest.mark.parametrize(("torch", "card", "least", "most"), [
    ("2.14.1+cu130", "RTX 3090", 200, 600),
    ("1.12", "RTX 3090", 1400, 2200),
    ("1.12", "RTX 2080 Ti", 700, 1000),
    ("", "RTX 2080 Ti", 200, 600),
])  # fmt: skip
def test_the_context_follows_architecture_and_release(torch, card, least, most):
    found = context(find_card(card), Stack(torch=torch))
    assert least * MIB <= found.low < found.expected < found.high <= most * MIB


def test_windows_draws_on_a_desktop_card_but_not_on_a_server_card():
    for name, more in (("RTX 3090", True), ("NVIDIA A100-SXM4-40GB", False)):
        card = find_card(name)
        linux, windows = (context(card, Stack(torch="2.14", os=each)) for each in ("linux", "windows"))
        assert (windows.display_high > 0) == more and linux.display_high == 0
        assert windows.high == linux.high  # what the desktop takes is no process of ours


def test_a_cpu_has_no_context_of_cuda():
    found = memory(traced(100, 300), replace(CARD, series="cpu"), TODAY, cpu_base=50 * MIB)
    assert found.parts["context"] == 50 * MIB
    assert found.low < found.process_peak < found.high
