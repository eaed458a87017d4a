"""A run's own steps, measured: as training runs them, with their batch already there, and under the profilers.

Nothing of it is saved: the model, its optimizer and the samples are opened as training would open them, and let go.
"""

from __future__ import annotations

import contextlib
import cProfile
import os
import pstats
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager as Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fromzero import training
from fromzero.data.batches import AHEAD, Batch
from fromzero.machine.process import usable_cores
from fromzero.profiling import events
from fromzero.profiling.noted import Function, Loading

PHASES = ("forward", "backward", "clip", "optimizer")
LEAST, MOST = 3, 40  # steps of each
WARM = 2  # steps before anything is measured
TRACED = 2  # steps under PyTorch's profiler, which makes them slower
Mark = Callable[[str], Context[Any]]


@dataclass
class Pace:
    """Seconds of steps, one entry each."""

    waiting: list[float] = field(default_factory=list)
    entering: list[float] = field(default_factory=list)
    stepping: list[float] = field(default_factory=list)

    @property
    def step(self) -> float:
        """The mean: a loader that is too slow is waited for in bursts."""
        whole = [sum(each) for each in zip(self.waiting, self.entering, self.stepping, strict=True)]
        return statistics.fmean(whole)


class Steps:
    """The steps of a run, one after the other, epoch after epoch."""

    def __init__(self, job: training.Job) -> None:
        job.state = training.State()
        self.job = job
        self._batches = self._all()

    def _all(self) -> Iterator[Batch]:
        while True:
            if self.job.done:
                self.job.state = training.State()
            yield from training.batches_left(self.job)

    def loaded(self) -> list[Batch]:
        """The next step's batches, as they are loaded."""
        return [next(self._batches) for _ in range(self.job.recipe.accumulate)]

    def entered(self, raw: list[Batch]) -> list[Batch]:
        """The same on the device, as the learner takes them."""
        job = self.job
        made = (training.entered(each, job.entry, job.recipe, job.engine.device) for each in raw)
        return [training.with_teacher(job, each) for each in made]

    def run(self, parts: list[Batch]) -> None:
        training.stepped(self.job, parts)

    def wait(self) -> None:
        """Until the device has done what it was told to."""
        if _on_card(self):
            torch.cuda.synchronize()

    def close(self) -> None:
        """The loader's threads end."""
        self._batches.close()  # type: ignore[attr-defined]


def _on_card(steps: Steps) -> bool:
    return steps.job.engine.device.type == "cuda"


def looped(steps: Steps, seconds: float) -> Pace:
    """Steps as training runs them. The batches that the threads made before count for nothing."""
    threads = steps.job.samples.workers
    return _paced(steps, steps.loaded, max(WARM, threads + AHEAD + 1), seconds)


def resident(steps: Steps, seconds: float) -> Pace:
    """Steps whose batch is there already, always the same."""
    raw = steps.loaded()
    return _paced(steps, lambda: raw, WARM, seconds)


def _paced(steps: Steps, batches: Callable[[], list[Batch]], skipped: int, seconds: float) -> Pace:
    pace, began = Pace(), 0.0
    for number in range(skipped + MOST):
        if number == skipped:
            pace, began = Pace(), time.perf_counter()
        start = time.perf_counter()
        raw = batches()
        there = time.perf_counter()
        parts = steps.entered(raw)
        steps.wait()
        inside = time.perf_counter()
        steps.run(parts)
        steps.wait()
        pace.waiting.append(there - start)
        pace.entering.append(inside - there)
        pace.stepping.append(time.perf_counter() - inside)
        if number >= skipped + LEAST - 1 and time.perf_counter() - began > seconds:
            break
    return pace


def loading(job: training.Job, waiting: float) -> Loading:
    """One thread's time for a batch, with nothing else at work."""
    items = batch_of(job)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        job.samples.batch(items)
        times.append(time.perf_counter() - start)
    batch = min(times) * job.recipe.accumulate
    return Loading(batch=batch, threads=job.samples.workers, cores=usable_cores(), waiting=waiting)


def batch_of(job: training.Job) -> list[tuple[int, int]]:
    """The items of one batch."""
    order = job.samples.order(job.rows, 0)
    return [(int(row), 0) for row in order[: job.recipe.batch]]


@contextlib.contextmanager
def marked(job: training.Job, mark: Mark) -> Iterator[None]:
    """Within it, every phase of a step runs inside `mark(phase)`."""
    wrapped = [
        (job.learner, "forward", "forward"),
        (job.engine, "backward", "backward"),
        (job.engine, "clip_grad_norm_", "clip"),
        (job.optimizer, "step", "optimizer"),
    ]

    def inside(call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def marking(*args: Any, **kwargs: Any) -> Any:
            with mark(phase):
                return call(*args, **kwargs)

        return marking

    for thing, name, phase in wrapped:
        setattr(thing, name, inside(getattr(thing, name), phase))
    try:
        yield
    finally:
        for thing, name, _ in wrapped:  # the class's own is behind it
            delattr(thing, name)


def phases(steps: Steps, stepping: float, seconds: float) -> dict[str, float]:
    """Seconds of a step by phase; forward is what is left, the loss and the zeroing of gradients included."""
    taken = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def timed(phase: str) -> Iterator[None]:
        steps.wait()
        start = time.perf_counter()
        yield
        steps.wait()
        taken[phase] += time.perf_counter() - start

    parts = steps.entered(steps.loaded())
    count, began = 0, time.perf_counter()
    with marked(steps.job, timed):
        while count < LEAST or (count < MOST and time.perf_counter() - began < seconds):
            steps.run(parts)
            count += 1
    whole = (time.perf_counter() - began) / count
    found = {phase: taken[phase] / count for phase in PHASES[1:]}
    scale = stepping / whole  # waiting for the device at each phase took some time of its own
    return {"forward": stepping - scale * sum(found.values()), **{phase: scale * t for phase, t in found.items()}}


# --- profilers --------------------------------------------------------------------------------------------------------


def traced(steps: Steps, path: Path, *, stacks: bool) -> None:
    """A trace of TRACED steps as a .json.gz file that Perfetto and Chrome open; `stacks` follows Python's functions as
    well, which makes them much slower."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells standard error that it starts, and that there is no card
    from torch.profiler import ProfilerActivity, profile, record_function

    parts = steps.entered(steps.loaded())
    activities = [ProfilerActivity.CPU]
    if _on_card(steps):
        activities.append(ProfilerActivity.CUDA)
    with marked(steps.job, record_function):
        steps.run(parts)
        with profile(activities=activities, record_shapes=stacks, profile_memory=True, with_stack=stacks) as found:
            for _ in range(1 if stacks else TRACED):
                with record_function(events.STEP):
                    steps.run(parts)
                    steps.wait()
    found.export_chrome_trace(str(path))


def functions(steps: Steps, path: Path) -> tuple[list[Function], list[Function]]:
    """Python's functions by the time in each alone: of a step, and of making its batch. The file opens in snakeviz."""
    parts, items = steps.entered(steps.loaded()), batch_of(steps.job)
    profiler, count = cProfile.Profile(), 2
    profiler.enable()
    for _ in range(count):
        steps.run(parts)
        steps.wait()
    profiler.disable()
    profiler.dump_stats(path)
    loader = cProfile.Profile()
    loader.runcall(steps.job.samples.batch, items)
    return _functions(profiler, count), _functions(loader, 1)


def _functions(profiler: cProfile.Profile, count: int) -> list[Function]:
    found = []
    for (file, line, name), (_, calls, alone, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        place = "" if file == "~" else f"{Path(file).name}:{line}"
        found.append(
            Function(name=name, place=place, calls=calls / count, seconds=alone / count, own=bool(place) and _own(file))
        )
    return sorted(found, key=lambda each: -each.seconds)


def _own(file: str) -> bool:
    """Whether a file is the user's."""
    ours = str(Path(__file__).resolve().parents[1])
    return not (file.startswith(("<", ours)) or "site-packages" in file or "/lib/python3" in file.replace("\\", "/"))


def sampled(steps: Steps, path: Path, seconds: float) -> str:
    """A flame graph of all threads, the loader's included, by py-spy where it is installed and allowed to look; else
    why there is none."""
    path.unlink(missing_ok=True)
    program = shutil.which("py-spy")
    if program is None:
        return "py-spy"
    with tempfile.TemporaryFile("w+") as said:
        command = [program, "record", "--pid", str(os.getpid()), "--duration", str(max(1, round(seconds))), "--format"]
        command += ["flamegraph", "--output", str(path), "--threads", "--nonblocking"]
        spy = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            until = time.monotonic() + 4 * max(1, round(seconds)) + 5
            while spy.poll() is None and time.monotonic() < until:
                steps.run(steps.entered(steps.loaded()))
        finally:
            spy.kill()
            spy.wait()
        said.seek(0)
        text = " ".join(said.read().split())
    return "" if path.is_file() else text[-200:] or "py-spy"


def captured(steps: Steps) -> None:
    """Steps for NVIDIA's profilers: the phases are NVTX ranges, and only TRACED steps lie between the marks that their
    --capture-range and --profile-from-start wait for. Written by the documentation; never run on a card here."""
    for _ in range(WARM):
        steps.run(steps.entered(steps.loaded()))
    steps.wait()
    if not _on_card(steps):
        return
    with marked(steps.job, torch.cuda.nvtx.range):
        torch.cuda.profiler.start()
        for _ in range(TRACED):
            with torch.cuda.nvtx.range("step"):
                steps.run(steps.entered(steps.loaded()))
        steps.wait()
        torch.cuda.profiler.stop()
