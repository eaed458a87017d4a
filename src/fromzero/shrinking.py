"""shrink(): a run becomes smaller and faster within a budget of latency and accuracy.

What needs no training is tried first. Then pictures become smaller and the network is cut, the mildest step first: what
it saves is timed before anything is trained, and only what can keep the budget learns again, is quantised, and is
distilled where it lost too much. Every candidate is measured; what was made and measured is not made again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np

from fromzero import checkpoint, tasks
from fromzero import shrink as ways
from fromzero.data.batches import ordered_batches
from fromzero.errors import FromzeroError, ParityError, RunError, UsageError
from fromzero.evaluation import BATCH, wilson
from fromzero.exporting import Limits, export, prove
from fromzero.facts.cards import find_card
from fromzero.files import write_bytes, write_json
from fromzero.language import say
from fromzero.machine.detect import this_cpu
from fromzero.machine.process import usable_cores
from fromzero.models.build import task_of
from fromzero.planning import plan
from fromzero.records import Preprocessing, from_json, to_json
from fromzero.runs import Run
from fromzero.shrink import NothingToGain, Source
from fromzero.shrink import _judging as judging
from fromzero.shrink import _measuring as measuring
from fromzero.shrink._artifacts import about, model_file
from fromzero.shrink._judging import MAX_DROP, ORIGINAL, Budget, Shrunk, Verdict, share
from fromzero.shrink._measuring import Latency, Measured
from fromzero.shrink._telling import picture, summary, table, title
from fromzero.terminal import Console
from fromzero.training import data_of, resume

RECORD = "shrink.json"
FREE = ("int8", "int4", "magnitude")  # ways that need no training, tried on the original as it is
__all__ = ["Budget", "Shrunk", "Verdict", "share", "shrink", "summary", "table"]

LEARNT = ("recovered", f"recovered{ways.JOINT}distilled")  # after a cut
EPOCHS_SHARE = 0.5  # of the original's, for each training
SANE = Limits(0.9)  # a quantised model that agrees with its own network less often is broken, whatever it scores


def shrink(
    run: Path | str,
    *,
    latency: str | None = None,
    on: str = "cpu",
    threads: int | None = None,
    max_drop: float = MAX_DROP,
    ratios: Sequence[str] = (),
    epochs: int | None = None,
    student: str | None = None,
    output: Path | str | None = None,
    console: Console | None = None,
) -> Shrunk:
    """The best of what can be made of a run within a budget (see `Budget`; `latency` is "10ms" or "2x"; `threads`: all
    that this process may use). `ratios` are the shares of channels that pruning takes, `epochs` those of each training,
    `student` a model to distil into. Everything is kept in `output` (default: `<run>/shrink`) and found there again.
    Raises UsageError for a run that is no classifier, and where `output` holds what was made of other weights."""
    console = console or Console()
    source = Run(Path(run))
    planned = source.plan()
    if planned.workload.task == "lm":
        raise UsageError("shrink_no_classes", path=run)
    if student is not None:
        task_of(student)
    budget = Budget(
        on="cpu" if on.casefold() == "cpu" else find_card(on).title,
        threads=threads or usable_cores(),
        max_drop=max_drop,
        **judging.goal(latency),
    )
    folder = Path(output) if output else source.path / "shrink"
    epochs = epochs or max(1, round(planned.recipe.epochs * EPOCHS_SHARE))
    bench = _Bench(source, folder, budget, epochs, console)
    verdicts = list(_tried(bench, tuple(ratios) or ways.way("structured").SETTINGS, student))
    best = judging.best(verdicts, budget)
    found = Shrunk(
        path=folder,
        model=planned.workload.model if "/" not in planned.workload.model else source.path.name,
        device=this_cpu().title,
        budget=budget,
        candidates=tuple(verdicts),
        best=best.name if best else None,
        nearest=None if best else judging.nearest(verdicts, budget),
    )
    write_json(folder / RECORD, {**to_json(found), "path": str(folder.resolve()), "weights": bench.weights})
    write_bytes(folder / "shrink.png", picture(found))
    return found


# --- the order in which candidates are tried ----------------------------------------------------------------------


def _tried(bench: _Bench, ratios: Sequence[str], student: str | None) -> Iterator[Verdict]:
    """Every candidate that is worth a look, until one keeps a budget that names a latency."""
    budget = bench.budget
    yield (original := bench.judged(ORIGINAL))
    quantised = 1.0  # how much faster int8 makes this network on this machine
    enough = original.kept
    for name in FREE:
        for setting in ways.way(name).SETTINGS:
            yield (found := bench.judged(ways.step(name, setting)))
            enough |= found.kept and not budget.open
            if name == "int8" and found.measured is not None and budget.on == "cpu":
                quantised = max(1.0, found.measured.judged.faster)
    if enough:
        return
    if student is not None:
        for name in (f"distilled-{student}", f"distilled-{student}{ways.JOINT}int8"):
            yield (found := bench.judged(name))
            if found.kept and not budget.open:
                return
    if (yield from _stepwise(bench, "resized", bench.sizes, quantised, ("", "recovered"))):
        return
    yield from _stepwise(bench, "structured", ratios, quantised, LEARNT)


def _stepwise(
    bench: _Bench, way: str, settings: Sequence[str], quantised: float, learning: Sequence[str]
) -> Generator[Verdict, None, bool]:
    """Candidates of a way that has settings, the mildest first, each with as much learning (of `learning`, in this
    order) as it takes to lose little enough. Whether one keeps a budget that names a latency."""
    budget = bench.budget
    for setting in settings:
        cut = ways.step(way, setting)
        timed = bench.timed(cut)
        if isinstance(timed, Verdict):  # it offers this way nothing
            yield timed
            return False
        finals = _finals(budget, timed, quantised)
        if not finals:
            name = ways.JOINT.join(each for each in (cut, learning[0]) if each)
            yield Verdict(name=name, kept=False, reason="untrained", latency=timed.p50, faster=timed.faster)
            continue
        kept, reasons = False, {"too_inaccurate"}
        for learnt in learning:
            if kept or "too_inaccurate" not in reasons:  # learning more makes nothing faster
                break
            names = [ways.JOINT.join(each for each in (cut, learnt, final) if each) for final in finals]
            found_here = [bench.judged(name) for name in names]
            yield from found_here
            kept, reasons = any(each.kept for each in found_here), {each.reason for each in found_here}
        # A milder cut is more accurate, a harder one faster.
        if not (kept if budget.open else not kept and "too_slow" in reasons):
            return kept and not budget.open
    return False


def _finals(budget: Budget, timed: Latency, quantised: float) -> tuple[str, ...]:
    """What a cut network is to end as, so that it can keep the budget: as it is (""), quantised, or not at all."""
    if budget.open:
        return ("", "int8") if quantised > 1 else ("",)
    if judging.fast_enough(budget, timed.p50, timed.faster):
        return ("",)
    if quantised > 1 and judging.fast_enough(budget, timed.p50 / quantised, timed.faster * quantised):
        return ("int8",)
    return ()


# --- making and measuring -----------------------------------------------------------------------------------------


class _Bench:
    """The folder in which candidates are made and measured, each once."""

    def __init__(self, run: Run, folder: Path, budget: Budget, epochs: int, console: Console) -> None:
        self.run, self.folder, self.budget, self.epochs, self.console = run, folder, budget, epochs, console
        weights = run.best if checkpoint.exists(run.best) else run.last
        self.weights = checkpoint.load(weights, "model")[1]["sha256"]["model.safetensors"]
        self._claim()
        self.task = tasks.trained(run.plan().workload.task)
        self._answered: dict[str, np.ndarray] = {}
        how = run.preprocessing()
        self.sizes: Sequence[str] = ways.way("resized").sizes(how.size) if isinstance(how, Preprocessing) else ()
        self.data = data_of(run)
        self.split = "test" if len(self.data.rows("test")) else "val"
        held = self.task.samples(self.data, how)
        pairs = list(ordered_batches(held, held.rows(self.split), BATCH))
        self._read = {repr(how): [inputs.numpy() for inputs, _ in pairs]}
        self.truth = np.concatenate([targets.numpy() for _, targets in pairs])

    def _claim(self) -> None:
        """Refuse a folder that holds what was made of other weights."""
        mark = self.folder / "weights.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if mark.is_file():
            if json.loads(mark.read_text(encoding="utf-8")) != self.weights:
                raise UsageError("shrink_other_run", path=self.folder)
        else:
            write_json(mark, self.weights)

    def batches(self, name: str) -> list[np.ndarray]:
        """The samples that all are measured on, as a candidate reads them."""
        how = Run(self.run_of(name)).preprocessing()
        if repr(how) not in self._read:
            held = self.task.samples(self.data, how)
            self._read[repr(how)] = [
                inputs.numpy() for inputs, _ in ordered_batches(held, held.rows(self.split), BATCH)
            ]
        return self._read[repr(how)]

    # --- making

    def place(self, name: str) -> Path:
        return self.folder / _flat(name)

    def run_of(self, name: str) -> Path:
        """The run that a candidate is made of: its own, or the one that was quantised."""
        while name != ORIGINAL:
            before, way = _split(name)
            if ways.way(way[0]).CHANGES == "run":
                return self.place(name) / "run"
            name = before
        return self.run.path

    def artifact_of(self, name: str) -> Path:
        return self.place(name) / "artifact"

    def made(self, name: str) -> float:
        """Make a candidate unless it is there, and what comes before it; the seconds that it took now."""
        if name == ORIGINAL:
            self._exported(name)
            return 0.0
        before, (way, setting) = _split(name)
        self.made(before)
        module, began = ways.way(way), time.monotonic()
        source = Source(self.run.path, self.run_of(before), self.artifact_of(before), self.epochs)
        if module.CHANGES == "artifact":
            if not self.artifact_of(name).is_dir():
                self.place(name).mkdir(exist_ok=True)
                module.make(source, setting, self.artifact_of(name), self.console)
            if about(self.artifact_of(name)).get("parity") is None:
                prove(source.run, self.artifact_of(name), SANE)
            return time.monotonic() - began
        own = self.run_of(name)
        if not _finished(own):
            self.console.line(say("shrink.making", name=title(name)))
            if module.TRAINS and (own / "run.json").is_file() and checkpoint.exists(Run(own).last):
                resume(own, self.console)
            else:
                shutil.rmtree(own, ignore_errors=True)
                self.place(name).mkdir(exist_ok=True)
                module.make(source, setting, own, self.console)
        self._exported(name)
        return time.monotonic() - began

    def _exported(self, name: str) -> None:
        if not (self.artifact_of(name) / "artifact.json").is_file():
            export(self.run_of(name), output=self.artifact_of(name))

    # --- measuring

    def timed(self, name: str) -> Latency | Verdict:
        """How fast a candidate is where the budget asks for it; a verdict where it cannot be made."""
        try:
            self.made(name)
        except NothingToGain as why:
            return Verdict(name=name, kept=False, reason=str(why))
        except FromzeroError as error:
            return Verdict(name=name, kept=False, reason=error.cause)
        if self.budget.on != "cpu":
            seconds = self._predicted(name)
            return Latency(threads=0, p50=seconds, p99=seconds, faster=self._predicted(ORIGINAL) / seconds)
        return self._latencies(name)[-1]

    def judged(self, name: str) -> Verdict:
        """Make and measure a candidate, and judge it."""
        try:
            found = self.measured(name)
        except NothingToGain as why:
            return Verdict(name=name, kept=False, reason=str(why))
        except ParityError:
            return Verdict(name=name, kept=False, reason="disagrees")
        except FromzeroError as error:
            if isinstance(error, RunError) and error.code == "run_in_use":
                raise
            return Verdict(name=name, kept=False, reason=error.cause)
        latency, faster = self._latency_of(name, found)
        fast = not self.budget.open and latency is not None and judging.fast_enough(self.budget, latency, faster or 1.0)
        reason = ORIGINAL if name == ORIGINAL else judging.reason(self.budget, latency, faster, found.drop)
        return Verdict(
            name=name,
            kept=fast if name == ORIGINAL else reason == "kept",
            reason=reason,
            latency=latency,
            faster=faster,
            measured=found,
            run=str(self.run_of(name)) if not _quantised(name) else None,
            artifact=str(self.artifact_of(name)),
        )

    def measured(self, name: str) -> Measured:
        """The figures of a candidate, kept beside it."""
        kept = self.place(name) / "measured.json"
        if kept.is_file():
            values = json.loads(kept.read_text(encoding="utf-8"))
            latency = tuple(from_json(Latency, each) for each in values.pop("latency"))
            found = dataclasses.replace(from_json(Measured, {**values, "latency": ()}), latency=latency)
            if found.judged.threads != self.budget.threads:
                found = dataclasses.replace(found, latency=self._latencies(name))
        else:
            seconds = self.made(name)
            self.console.line(say("shrink.measuring", name=title(name)))
            found = self._measured(name, seconds)
        if self.budget.on != "cpu" and not _quantised(name) and self.budget.on not in found.predicted:
            found = dataclasses.replace(found, predicted={**found.predicted, self.budget.on: self._predicted(name)})
        write_json(kept, to_json(found))
        return found

    def _measured(self, name: str, seconds: float) -> Measured:
        model = model_file(self.artifact_of(name))
        ours, theirs = (self._answers(each).argmax(axis=1) for each in (name, ORIGINAL))
        right = ours == self.truth
        drop, interval = measuring.difference(theirs == self.truth, right)
        return Measured(
            name=name,
            size=model.stat().st_size,
            compressed=measuring.compressed(model),
            memory=measuring.memory(model, self.batches(name)[0][:1]),
            latency=self._latencies(name),
            accuracy=float(right.mean()),
            interval=wilson(int(right.sum()), len(right)),
            drop=drop,
            drop_interval=interval,
            agreement=float((ours == theirs).mean()),
            samples=len(right),
            split=self.split,
            seconds=seconds,
        )

    def _answers(self, name: str) -> np.ndarray:
        if name not in self._answered:
            if ORIGINAL not in self._answered and name != ORIGINAL:
                self._answers(ORIGINAL)
            found = measuring.scores(model_file(self.artifact_of(name)), self.batches(name))
            self._answered[name] = found
        return self._answered[name]

    def _latencies(self, name: str) -> tuple[Latency, ...]:
        """Kept for all candidates of one shape: what a network has learnt makes it neither slower nor faster."""
        kept = self.folder / "latency" / f"{_flat(_shape(name))}-{self.budget.threads}.json"
        if not kept.is_file():
            one, other = ((model_file(self.artifact_of(each)), self.batches(each)[0][:1]) for each in (ORIGINAL, name))
            found = measuring.latencies(one, other, self.budget.threads)
            kept.parent.mkdir(exist_ok=True)
            write_json(kept, to_json(found))
        return tuple(from_json(Latency, each) for each in json.loads(kept.read_text(encoding="utf-8")))

    def _latency_of(self, name: str, found: Measured) -> tuple[float | None, float | None]:
        """What is judged: measured here, or predicted for a card where the planner can say."""
        if self.budget.on == "cpu":
            return found.judged.p50, 1.0 if name == ORIGINAL else found.judged.faster
        seconds = found.predicted.get(self.budget.on)
        return seconds, None if seconds is None else self._predicted(ORIGINAL) / seconds

    def _predicted(self, name: str) -> float:
        """Seconds of one sample on the budget's card: of the PyTorch network, predicted."""
        made_of = Run(self.run_of(name))
        workload, shape = made_of.plan().workload, self.task.shape(made_of.preprocessing())
        made = plan(workload.model, card=self.budget.on, purpose="infer", batch=1, classes=workload.classes, **shape)
        return made.time.step


def _split(name: str) -> tuple[str, tuple[str, str]]:
    """What a candidate is made from, and the way and setting of its last step."""
    before, _, last = name.rpartition(ways.JOINT)
    return before or ORIGINAL, ways.parts(last)


def _flat(name: str) -> str:
    """A candidate's name as that of a file: the setting may be a model's name."""
    return name.replace("/", "_").replace(":", "_")


def _shape(name: str) -> str:
    """A candidate without the steps that only learn."""
    return ways.JOINT.join(each for each in name.split(ways.JOINT) if each not in ("recovered", "distilled"))


def _quantised(name: str) -> bool:
    return name != ORIGINAL and ways.way(_split(name)[1][0]).CHANGES == "artifact"


def _finished(run: Path) -> bool:
    return (run / "run.json").is_file() and Run(run).record()["status"] == "finished"
