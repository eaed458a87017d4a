"""The moment of the peak, what is alive then, and the course of a step."""

from __future__ import annotations

from fromzero.planner.breakdown import by_module, by_part, course, peak
from fromzero.planner.trace import Event, Moment, Trace


def trace():
    moments = (
        Moment("forward", "net.0", "mm"), Moment("forward", "net.1.fc", "mm"), Moment("backward", "net.1.fc", "mm"),
        Moment("backward", "net.0", "mm"), Moment("optimizer", "", "add"),
    )  # fmt: skip
    events = (
        Event(+1, 1, 100, 0), Event(+1, 2, 30, 0), Event(+1, 3, 50, 1), Event(+1, 4, 500, 2), Event(-1, 4, 500, 2),
        Event(+1, 5, 100, 2), Event(-1, 3, 50, 2), Event(-1, 2, 30, 3), Event(-1, 5, 100, 4),
    )  # fmt: skip
    parts = {1: "weights", 2: "activations", 3: "activations", 4: "workspace", 5: "gradients"}
    return Trace(events, parts, (), 1, moments, (0,), {1: "net.1.fc"}, frozenset(), ("net.0", "net.1"))


def test_the_peak_has_a_moment_and_everything_alive_then():
    found = peak(trace())
    assert found.moment == Moment("backward", "net.1.fc", "mm")
    assert found.step == 1
    assert by_part(trace(), found) == {
        "weights": 100, "gradients": 0, "optimizer": 0, "activations": 80, "workspace": 500,
    }  # fmt: skip


def test_modules_inside_a_block_count_to_the_block():
    assert by_module(trace(), peak(trace())) == {"net.1": 100 + 50 + 500, "net.0": 30}
    assert by_module(trace(), peak(trace()), most=1) == {"net.1": 650}


def test_the_course_shows_what_an_operator_takes_and_gives_back():
    found = course(trace())
    total = [sum(found.bytes[part][at] for part in found.bytes) for at in range(5)]
    assert total == [130, 180, 680, 230, 200]
    assert found.bytes["workspace"] == [0, 0, 500, 0, 0]
    assert [name for _, name in found.phases] == ["forward", "backward", "optimizer"]
    assert found.blocks == [(0, "net.0"), (1, "net.1"), (3, "net.0")]


def test_the_course_of_the_last_step_starts_with_what_the_first_left():
    first = trace()
    second = tuple(Event(e.sign, e.block + 10, e.size, e.moment + 5) for e in first.events[1:])
    both = Trace(
        first.events + second, first.parts | {b + 10: p for b, p in first.parts.items()}, (), 1,
        first.moments * 2, (0, 5), first.places, frozenset(), first.units,
    )  # fmt: skip
    assert course(both).bytes == course(first).bytes
