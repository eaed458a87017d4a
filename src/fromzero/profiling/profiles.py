"""profile(): where a step's time and memory go, and what holds it up. Read top to bottom."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from fromzero import training
from fromzero.errors import UsageError
from fromzero.files import disk_error, write_bytes, write_json, write_text
from fromzero.language import say
from fromzero.profiling import beside, drawing, events, judging, measuring, nsight
from fromzero.profiling.noted import Profile
from fromzero.records import to_json
from fromzero.runs import Run
from fromzero.terminal import Console

TOP = 12  # operators and functions that are told


def profile(path: Path | str, seconds: float = 4.0, console: Console | None = None) -> Profile:
    """The steps of a run, on its own data and with its own recipe, measured here and now, about `seconds` long in each
    of five ways. The run is not changed; `profile/` in its folder gets the trace, the flame graph and the pictures.
    Raises RunError, UsageError for a run of several cards, DiskError."""
    console = console or Console()
    run = Run(Path(path))
    plan, folder = run.plan(), run.path / "profile"
    steps = _opened(run, console)
    job = steps.job
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error

    console.line(say("profile.pacing"))
    loop, alone = measuring.looped(steps, seconds), measuring.resident(steps, seconds)
    waiting = sum(loop.waiting) / len(loop.waiting)
    loading = measuring.loading(job, waiting)
    stepping = sum(alone.stepping) / len(alone.stepping)
    entering = sum(alone.entering) / len(alone.entering)
    resident = entering + stepping
    # What loading costs a step: its waiting, and at most a batch's own making, which takes cores from the step. Where
    # the two paces differ by more, somebody else was at work.
    cost = min(max(0.0, loop.step - resident), waiting + loading.batch)
    step = resident + cost
    parts = {"waiting": cost, "entering": entering, **measuring.phases(steps, stepping, seconds / 2)}

    console.line(say("profile.tracing"))
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.json.gz"
        measuring.traced(steps, plain, stacks=False)
        seen = events.read(plain)
    measuring.traced(steps, folder / "trace.json.gz", stacks=True)
    stacks = events.stacks(events.read(folder / "trace.json.gz"))
    functions, making = measuring.functions(steps, folder / "python.prof")
    why_not = measuring.sampled(steps, folder / "py-spy.svg", seconds)
    steps.close()

    found = events.calls(seen, (events.OPERATOR,))
    wall = events.covered(events.steps(seen))
    tiny, tiny_calls = events.tiny(found, judging.TINY)
    on_card = job.engine.device.type == "cuda"
    table = judging.operators(*_times(seen, found), measuring.TRACED)
    measured = judging.Measured(
        step=step,
        resident=resident,
        parts=parts,
        loading=loading,
        between=events.between(seen),
        tiny=0.0 if on_card else tiny / wall,  # on a card, short kernels show as gaps between them
        tiny_calls=tiny_calls / measuring.TRACED,
        operators=table,
        functions=functions,
        making=making,
        batch=_samples(job),
    )
    bottleneck, others = judging.judge(measured)
    level = events.memory(seen, measuring.PHASES)
    kept = _kept(job)
    peak = sum(kept.values()) + max(level.bytes)
    made = Profile(
        run=str(run.path),
        model=plan.workload.model,
        device=str(job.engine.device),
        batch=measured.batch,
        steps=len(loop.waiting),
        step=step,
        resident=resident,
        samples_per_second=measured.batch / step,
        parts=parts,
        loading=loading,
        between=measured.between,
        tiny=measured.tiny,
        operators=table[:TOP],
        functions=tuple(functions[:TOP]),
        peak=peak,
        planned_step=plan.time.step,
        planned_peak=plan.memory.allocated_peak,
        deviations=beside.deviations(plan, seen, measuring.TRACED),
        bottleneck=bottleneck,
        others=others,
        notes=tuple(_notes(job, why_not)),
        nsight=nsight.commands(run.path, folder),
        files=(),
    )
    return _written(made, folder, stacks, level, kept)


def under_nsight(path: Path | str, console: Console | None = None) -> None:
    """Only run the steps, with the marks that NVIDIA's profilers wait for."""
    steps = _opened(Run(Path(path)), console or Console())
    measuring.captured(steps)
    steps.close()


def _opened(run: Run, console: Console) -> measuring.Steps:
    plan = run.plan()
    if plan.recipe.cards > 1:
        raise UsageError("profile_several_cards", cards=plan.recipe.cards)
    return measuring.Steps(training.opened(run, training.data_of(run, console), Console()))


def _samples(job: training.Job) -> int:
    assert job.recipe.batch is not None
    return job.recipe.batch * job.recipe.accumulate


def _times(seen: list[dict[str, Any]], found: list[events.Call]) -> tuple[dict[str, float], Counter[str]]:
    """Microseconds in each operator alone, and its calls: of the kernels it starts where there is a card."""
    times: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter(call.name for call in found)
    kernels = [each for each in seen if each.get("cat") in events.ON_DEVICE]
    names = {call.number: call.name for call in found}
    for each in kernels:
        times[names.get(each.get("args", {}).get("External id", -1), each["name"])] += each["dur"]
    if not kernels:
        for call in found:
            times[call.name] += call.alone
    return times, counts


def _kept(job: training.Job) -> dict[str, int]:
    """Bytes that stay from step to step."""
    import torch

    weights = [*job.model.parameters(), *job.model.buffers()]
    states = getattr(job.optimizer, "optimizer", job.optimizer).state.values()
    state = [each for values in states for each in values.values() if isinstance(each, torch.Tensor)]
    if job.averaged is not None:
        state += [*job.averaged.parameters(), *job.averaged.buffers()]
    sizes = {"weights": weights, "optimizer": state}
    return {name: sum(each.numel() * each.element_size() for each in found) for name, found in sizes.items()}


def _notes(job: training.Job, why_not: str) -> list[str]:
    notes = []
    if why_not:
        notes.append(say("profile.no_py_spy") if why_not == "py-spy" else say("profile.py_spy_failed", reason=why_not))
    if job.run.record().get("compiled", {}).get("kept"):
        notes.append(say("profile.not_compiled"))
    if job.learner is not job.model:
        notes.append(say("profile.head_alone"))
    return notes


def _written(made: Profile, folder: Path, stacks: events.Stacks, level: events.Level, kept: dict[str, int]) -> Profile:
    """The files, and the record that names them."""
    title = say("profile.flame_title", model=made.model, batch=made.batch)
    write_text(folder / "flame.svg", drawing.flame_graph(stacks, title))
    write_text(folder / "stacks.txt", events.folded(stacks))
    write_bytes(folder / "time.png", drawing.time_of_step(made))
    write_bytes(folder / "memory.png", drawing.memory_over_time(level, kept, made.planned_peak, made.peak))
    write_bytes(folder / "beside-plan.png", drawing.measured_beside_predicted(made.deviations))
    write_text(folder / "nsight.sh", "\n".join(["#!/bin/sh", *made.nsight, ""]))
    order = ("time.png", "flame.svg", "memory.png", "beside-plan.png", "trace.json.gz", "py-spy.svg", "python.prof")
    names = [each for each in (*order, "stacks.txt", "nsight.sh", "profile.json") if (folder / each).is_file()]
    whole = dataclasses.replace(made, files=tuple(str(folder / each) for each in {*names, "profile.json"}))
    whole = dataclasses.replace(whole, files=tuple(sorted(whole.files)))
    write_json(folder / "profile.json", to_json(whole))
    return whole
