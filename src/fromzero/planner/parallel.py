"""One card's share of a step that several cards do together: transformations of the trace of the undivided step.

ddp      every card holds everything, and a copy of the gradients in buckets for the all-reduce
fsdp     weights, gradients and optimizer state are divided; a block's full weights exist while it runs
pipeline every card holds some of the blocks, and a few micro-batches of their activations
offload  the optimizer's state lives in the machine's memory
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from fromzero.planner.breakdown import unit_of
from fromzero.planner.timing import DIRECT, LINKS, communication, exposed, link_of
from fromzero.planner.trace import Event, Trace
from fromzero.records import Card, Time

STATE = ("weights", "gradients", "optimizer")
# torch.nn.parallel.DistributedDataParallel: buckets of 25 MiB after a first one of 1 MiB.
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20


def ddp(trace: Trace) -> Trace:
    """Gradient buckets, made before the first step and kept: the gradients once more (PyTorch's default, without
    `gradient_as_bucket_view`)."""
    total = sum(size for _, size in _gradients(trace))
    sizes = [min(FIRST_BUCKET, total)]
    while sum(sizes) < total:
        sizes.append(min(BUCKET, total - sum(sizes)))
    first = max(trace.parts) + 1
    buckets = [Event(+1, first + number, size) for number, size in enumerate(sizes) if size]
    at = _before_first_step(trace)
    return dataclasses.replace(
        trace,
        events=(*trace.events[:at], *buckets, *trace.events[at:]),
        parts=trace.parts | {each.block: "gradients" for each in buckets},
    )


def offload_optimizer(trace: Trace) -> Trace:
    """Without the optimizer's state and the temporaries of its step, which runs on the CPU."""
    left = _temporaries_of_optimizer(trace)
    stays = (each for each in trace.events if trace.parts[each.block] != "optimizer" and each.block not in left)
    return dataclasses.replace(trace, events=tuple(stays))


def fsdp(trace: Trace, cards: int, reshard: bool = True) -> Trace:
    """PyTorch's fully_shard by block. What lasts is divided by `cards`; a block's weights are gathered before it runs,
    with those of the next one on the way, and dropped after it (`reshard`) or after the backward pass; its gradients
    exist in full until they are reduced. Precision copies of weights, which autocast would make, are the gathered
    weights themselves."""
    gathered = _gathered_sizes(trace)
    temporary = _temporaries_of_optimizer(trace)
    divided = []
    for event in trace.events:
        if event.block in trace.casts:
            continue
        if trace.parts[event.block] in STATE or event.block in temporary:
            event = event._replace(size=-(-event.size // cards))
        divided.append(event)
    ghosts = list(_gathers(trace, gathered, reshard))
    parts, added = dict(trace.parts), []
    for number, (begin, end, size, part) in enumerate(ghosts, max(trace.parts) + 1):
        parts[number] = part
        added += [Event(+1, number, size, begin), Event(-1, number, size, end)]
    # What is gathered comes before the operators of its moment; what is dropped, after them.
    order = sorted(
        [*((each.moment, 1, each) for each in divided), *((e.moment, 0 if e.sign > 0 else 2, e) for e in added)],
        key=lambda item: item[:2],
    )
    return dataclasses.replace(trace, events=tuple(each for _, _, each in order), parts=parts)


MICRO_BATCHES = 4  # a stage: cards then wait for (stages - 1) of (5 stages - 1) micro-batches, a fifth of the time


def micro_batches(rows: int, stages: int) -> int:
    """Into how many equal parts a pipeline cuts a batch: enough that the cards seldom wait for each other."""
    return max(each for each in range(1, min(rows, MICRO_BATCHES * stages) + 1) if rows % each == 0)


def stage_starts(sizes: Sequence[int], stages: int) -> list[int]:
    """The blocks, of these sizes in order, that begin the second and each later stage, so that each stage has about as
    much. There are at least as many blocks as stages."""
    before = [0, *itertools.accumulate(sizes)]
    starts: list[int] = []
    for stage in range(1, stages):
        low, high = (starts[-1] if starts else 0) + 1, len(sizes) - (stages - stage)
        starts.append(min(range(low, high + 1), key=lambda at: abs(before[at] - before[-1] * stage / stages)))
    return starts


def pipeline(trace: Trace, stages: int) -> Trace:
    """The stage that needs most. Stage i of n keeps the activations of n - i micro-batches at once (PyTorch's schedule
    1F1B). Raises ValueError where there are fewer blocks than stages."""
    if len(trace.units) < stages:
        raise ValueError(len(trace.units))
    return max((_stage(trace, stages, number) for number in range(stages)), key=Trace.live_peak)


def _stage(trace: Trace, stages: int, number: int) -> Trace:
    sizes = _gathered_sizes(trace)
    starts = stage_starts([sizes.get(unit, 0) for unit in trace.units], stages)
    of_unit = {unit: sum(start <= at for start in starts) for at, unit in enumerate(trace.units)}
    seen, stage_at = 0, []  # what lies between two blocks belongs to the earlier one's stage
    for phase, path, _ in trace.moments:
        seen = of_unit.get(unit_of(trace, path), seen) if phase in ("forward", "backward") else 0
        stage_at.append(seen)
    born = {each.block: each.moment for each in reversed(trace.events) if each.sign > 0}
    used: dict[str, int] = {}  # what is in no block belongs where it is used first
    for (phase, path, _), stage in zip(trace.moments, stage_at, strict=True):
        if phase == "forward":
            used.setdefault(unit_of(trace, path), stage)
    micro = micro_batches(trace.batch, stages)
    held = min(1.0, (stages - number) / micro)
    kept = []
    for each in trace.events:
        if each.block in trace.places:
            unit = unit_of(trace, trace.places[each.block])
            if of_unit.get(unit, used.get(unit, 0)) == number:
                kept.append(each)
        elif trace.moments[born[each.block]].phase == "optimizer":
            kept.append(each._replace(size=-(-each.size // stages)))  # temporaries: about its share
        elif stage_at[born[each.block]] == number:
            lasts = trace.parts[each.block] in STATE  # gradients are of all micro-batches together
            kept.append(each if lasts else each._replace(size=round(each.size * held)))
    return dataclasses.replace(trace, events=tuple(kept))


def gradient_bytes(trace: Trace) -> int:
    """What the cards exchange at the end of a step."""
    return sum(size for _, size in _gradients(trace))


def weight_bytes(trace: Trace) -> int:
    """The weights as they are gathered: in the precision they are used in."""
    return sum(_gathered_sizes(trace).values())


def state_bytes(trace: Trace) -> int:
    """The optimizer's state."""
    return sum(each.size for each in trace.events if each.sign > 0 and trace.parts[each.block] == "optimizer")


# --- what it costs in time ----------------------------------------------------------------------------------------

# Assumptions, not measured here: Adam on a CPU reads and writes its state and the weights at this rate.
HOST_BANDWIDTH = 15e9


def waiting(
    trace: Trace, card: Card, time: Time, *, cards: int, how: str, offload: bool, network: float | None = None
) -> float:
    """Seconds of a step in which a card waits for the others, or for the host. `trace` is the undivided step, `time`
    that step on one card; `how` is one of `records.PARALLEL`, `network` bits/s between machines, None for one."""
    link = link_of(card)
    forward, backward = time.parts["forward"], time.parts["backward"]
    seconds = 0.0
    if cards > 1 and how == "pipeline":  # while the first micro-batch comes and the last one leaves
        seconds += (forward + backward) / cards * (cards - 1) / micro_batches(trace.batch, cards)
    elif cards > 1 and how == "ddp":
        seconds += exposed(communication(gradient_bytes(trace), cards, link, network=network), backward)
    elif cards > 1:
        weights = weight_bytes(trace)
        gather = communication(weights, cards, link, "all-gather", network)
        reduce = communication(gradient_bytes(trace), cards, link, "reduce-scatter", network)
        again = gather if how == "fsdp" else 0.0
        seconds += exposed(gather, forward) + exposed(again + reduce, backward)
    if offload:  # gradients go down and weights come up; the card waits for the CPU's step
        gradients = gradient_bytes(trace)
        seconds += 2 * gradients / (LINKS[link] * DIRECT)
        seconds += 2 * (state_bytes(trace) + gradients) / HOST_BANDWIDTH - time.parts["optimizer"]
    return max(0.0, seconds)


# --- reading a trace ----------------------------------------------------------------------------------------------


def _before_first_step(trace: Trace) -> int:
    return next((at for at, each in enumerate(trace.events) if trace.parts[each.block] != "weights"), 0)


def _gradients(trace: Trace) -> Iterator[tuple[int, int]]:
    """(moment, bytes) of the gradients that the last step makes."""
    begin = trace.steps[-1] if trace.steps else 0
    for each in trace.events:
        if each.sign > 0 and each.moment >= begin and trace.parts[each.block] == "gradients":
            yield each.moment, each.size


def _temporaries_of_optimizer(trace: Trace) -> set[int]:
    """Blocks taken while the optimizer works, wherever they are given back."""
    return {
        each.block
        for each in trace.events
        if each.sign > 0
        and trace.parts[each.block] == "activations"
        and trace.moments[each.moment].phase == "optimizer"
    }


def _division(trace: Trace, path: str) -> str:
    """The block whose weights are gathered together with those at `path`; "" is the rest of the model."""
    unit = unit_of(trace, path)
    return unit if unit in trace.units else ""


def _gathered_sizes(trace: Trace) -> dict[str, int]:
    """Bytes of each block's weights; half of them where autocast works in half precision."""
    sizes: dict[str, int] = {}
    for each in trace.events:
        if each.sign > 0 and trace.parts[each.block] == "weights" and each.block in trace.places:
            unit = _division(trace, trace.places[each.block])
            sizes[unit] = sizes.get(unit, 0) + each.size
    return {unit: size // 2 if trace.casts else size for unit, size in sizes.items()}


def _gathers(trace: Trace, sizes: dict[str, int], reshard: bool) -> Iterator[tuple[int, int, int, str]]:
    """(first moment, last moment, bytes, part) of each time a block's full weights or gradients are there."""
    for begin, end in zip(trace.steps, (*trace.steps[1:], len(trace.moments)), strict=True):
        spans: dict[tuple[str, str], list[int]] = {}
        for moment in range(begin, end):
            phase, path, _ = trace.moments[moment]
            if phase in ("forward", "backward"):
                spans.setdefault((phase, _division(trace, path)), []).append(moment)
        visited = [(phase, unit, at[0], at[-1]) for (phase, unit), at in spans.items() if unit in sizes]
        last = max((each[3] for each in visited), default=begin)
        visited.sort(key=lambda each: each[2])
        for number, (phase, unit, first, final) in enumerate(visited):
            if unit == "":  # what belongs to no block is gathered from the first use to the end of the step's passes
                if phase == "forward":
                    yield first, last, sizes[unit], "weights"
                continue
            early = visited[number - 1][2] if number and visited[number - 1][1] else first  # prefetched
            if reshard:
                yield early, final, sizes[unit], "weights"
            elif phase == "forward":
                closing = next((each[3] for each in visited if each[0] == "backward" and each[1] == unit), final)
                yield early, closing, sizes[unit], "weights"
            if phase == "backward":  # full gradients, in a buffer for the reduction
                yield first, final, sizes[unit], "gradients"
