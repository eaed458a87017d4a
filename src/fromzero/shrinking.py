"""shrink(): a run becomes smaller and faster within a budget of latency and accuracy.

What needs no training is tried first. Then the network is cut, the mildest cut first: what a cut saves is timed before
anything is trained, and only what can keep the budget learns again, is quantised, and is distilled where it lost too
much. Every candidate is measured; what was made and measured is not made again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import checkpoint, pictures, tasks
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
from fromzero.records import from_json, to_json
from fromzero.runs import Run
from fromzero.shrink import NothingToGain, Source
from fromzero.shrink import _measuring as measuring
from fromzero.shrink._artifacts import about, model_file
from fromzero.shrink._measuring import Latency, Measured
from fromzero.terminal import Console, bytes_text
from fromzero.training import data_of, resume

ORIGINAL = "original"
RECORD = "shrink.json"
FREE = ("int8", "int4", "magnitude")  # ways that need no training, tried on the original as it is
EPOCHS_SHARE = 0.5  # of the original's, for each training
MAX_DROP = 0.01
SANE = Limits(0.9)  # a quantised model that agrees with its own network less often is broken, whatever it scores
FASTER = 1.1  # times: what is less may be the machine's noise


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a candidate must keep: `latency` seconds of one sample (its median), or being `faster` so many times, on
    `on` ("cpu", measured with `threads`; a card, predicted), and at most `max_drop` of accuracy lost. Without
    `latency` and `faster` it must only be faster than the original, and the fastest is the best."""

    latency: float | None = None
    faster: float | None = None
    on: str = "cpu"
    threads: int = 1
    max_drop: float = MAX_DROP

    @property
    def open(self) -> bool:
        return self.latency is None and self.faster is None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a candidate. `reason` is a row `shrink.verdict.<reason>`, `shrink.reason.<reason>` or what an
    error said; `measured` is None for what was not made; `latency` and `faster` are those that were judged."""

    name: str
    kept: bool
    reason: str
    latency: float | None = None
    faster: float | None = None
    measured: Measured | None = None
    run: str | None = None
    artifact: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """The candidates, the original first. `best` keeps the budget; where none does, `nearest` comes closest."""

    path: Path
    model: str
    device: str
    budget: Budget
    candidates: tuple[Verdict, ...]
    best: str | None
    nearest: str | None

    def of(self, name: str | None) -> Verdict | None:
        return next((each for each in self.candidates if each.name == name), None)


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
    that this process may use). `ratios` are
    the shares of channels that pruning takes, `epochs` those of each training, `student` a model to distil into.
    Everything is kept in `output` (default: `<run>/shrink`) and found there again. Raises UsageError for a run that is
    no classifier, and where `output` holds what was made of other weights."""
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
        **_goal(latency),
    )
    folder = Path(output) if output else source.path / "shrink"
    epochs = epochs or max(1, round(planned.recipe.epochs * EPOCHS_SHARE))
    bench = _Bench(source, folder, budget, epochs, console)
    verdicts = list(_tried(bench, tuple(ratios) or ways.way("structured").SETTINGS, student))
    best = _best(verdicts, budget)
    found = Shrunk(
        path=folder,
        model=planned.workload.model if "/" not in planned.workload.model else source.path.name,
        device=this_cpu().title,
        budget=budget,
        candidates=tuple(verdicts),
        best=best.name if best else None,
        nearest=None if best else _nearest(verdicts, budget),
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
    for ratio in ratios:
        cut = ways.step("structured", ratio)
        timed = bench.timed(cut)
        if isinstance(timed, Verdict):  # nothing can be cut out of this network
            yield timed
            return
        finals = _finals(budget, timed, quantised)
        if not finals:
            name = ways.JOINT.join((cut, "recovered"))
            yield Verdict(name=name, kept=False, reason="untrained", latency=timed.p50, faster=timed.faster)
            continue
        kept, reasons = False, {"too_inaccurate"}
        for learnt in ("recovered", f"recovered{ways.JOINT}distilled"):
            if kept or "too_inaccurate" not in reasons:  # learning more makes nothing faster
                break
            names = [ways.JOINT.join(each for each in (cut, learnt, final) if each) for final in finals]
            found_here = [bench.judged(name) for name in names]
            yield from found_here
            kept, reasons = any(each.kept for each in found_here), {each.reason for each in found_here}
        # A milder cut is more accurate, a harder one faster.
        if not (kept if budget.open else not kept and "too_slow" in reasons):
            return


def _finals(budget: Budget, timed: Latency, quantised: float) -> tuple[str, ...]:
    """What a cut network is to end as, so that it can keep the budget: as it is (""), quantised, or not at all."""
    if budget.open:
        return ("", "int8") if quantised > 1 else ("",)
    if _fast_enough(budget, timed.p50, timed.faster):
        return ("",)
    if quantised > 1 and _fast_enough(budget, timed.p50 / quantised, timed.faster * quantised):
        return ("int8",)
    return ()


# --- judging ------------------------------------------------------------------------------------------------------


def _fast_enough(budget: Budget, latency: float, faster: float) -> bool:
    if budget.latency is not None:
        return latency <= budget.latency
    return faster >= (budget.faster or 1.0)


def _reason(budget: Budget, latency: float | None, faster: float | None, drop: float) -> str:
    """Why a candidate is dropped; "kept" where it is not."""
    if latency is None or faster is None:
        return "not_predicted"
    if faster < FASTER:
        return "not_faster"
    if not _fast_enough(budget, latency, faster):
        return "too_slow"
    return "too_inaccurate" if drop > budget.max_drop else "kept"


def _best(verdicts: Sequence[Verdict], budget: Budget) -> Verdict | None:
    """The most accurate that is fast enough, the faster of equals; the fastest where no latency was named."""
    kept = [each for each in verdicts if each.kept and each.measured is not None]

    def rank(each: Verdict) -> tuple[float, float]:
        assert each.measured is not None and each.faster is not None
        return (each.faster, 0.0) if budget.open else (each.measured.accuracy, each.faster)

    return max(kept, key=rank, default=None)


def _nearest(verdicts: Sequence[Verdict], budget: Budget) -> str | None:
    """Of those that lose little enough the fastest; where all lose too much, the one that loses least."""
    made = [each for each in verdicts if each.measured is not None and each.name != ORIGINAL and each.faster]
    right = [each for each in made if each.measured and each.measured.drop <= budget.max_drop]
    if right:
        return max(right, key=lambda each: each.faster or 0.0).name
    return min(made, key=lambda each: each.measured.drop if each.measured else 1.0).name if made else None


def _goal(latency: str | None) -> dict[str, float]:
    """ "10ms" and "2x" as fields of Budget."""
    if latency is None:
        return {}
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?(us|µs|ms|s|x)", latency.strip().lower())
    if not match or not float(match[1]) > 0:
        raise UsageError("not_a_latency", value=latency)
    value, unit = float(match[1]), match[2]
    return {"faster": value} if unit == "x" else {"latency": value * {"s": 1, "ms": 1e-3}.get(unit, 1e-6)}


def share(text: str) -> float:
    """ "1%" and "0.01" as 0.01. Raises UsageError for what is no share."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?(%?)", text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else math.inf
    if not 0 <= value <= 1:
        raise UsageError("not_a_share", value=text)
    return value


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
        held = self.task.samples(data_of(run), run.preprocessing())
        self.split = "test" if len(held.rows("test")) else "val"
        rows = held.rows(self.split)
        pairs = list(ordered_batches(held, rows, BATCH))
        self.batches = [inputs.numpy() for inputs, _ in pairs]
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
        fast = not self.budget.open and latency is not None and _fast_enough(self.budget, latency, faster or 1.0)
        reason = ORIGINAL if name == ORIGINAL else _reason(self.budget, latency, faster, found.drop)
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
            memory=measuring.memory(model, self.batches[0][:1]),
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
            found = measuring.scores(model_file(self.artifact_of(name)), self.batches)
            self._answered[name] = found
        return self._answered[name]

    def _latencies(self, name: str) -> tuple[Latency, ...]:
        """Kept for all candidates of one shape: what a network has learnt makes it neither slower nor faster."""
        kept = self.folder / "latency" / f"{_flat(_shape(name))}-{self.budget.threads}.json"
        if not kept.is_file():
            files = [model_file(self.artifact_of(each)) for each in (ORIGINAL, name)]
            found = measuring.latencies(files[0], files[1], self.batches[0][:1], self.budget.threads)
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
        workload = Run(self.run_of(name)).plan().workload
        shape = self.task.shape(self.run.preprocessing())
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


# --- telling ------------------------------------------------------------------------------------------------------


def title(name: str) -> str:
    """A candidate for a person: "pruned 50 %, recovered, int8"."""
    return say("shrink.joint").join(_step_title(*ways.parts(each)) for each in name.split(ways.JOINT))


def _step_title(way: str, setting: str) -> str:
    if way == "distilled" and setting:
        return say("shrink.step.student", setting=setting)
    return say(f"shrink.step.{way}", setting=f"{float(setting):.0%}" if setting else "")


def verdict_text(each: Verdict) -> str:
    """What became of a candidate, for a person."""
    if each.reason == "untrained":
        return say("shrink.untrained", verdict=say("shrink.verdict.too_slow"))
    if each.measured is not None:
        return say(f"shrink.verdict.{each.reason}")
    if re.fullmatch("[a-z_]+", each.reason):
        return say(f"shrink.reason.{each.reason}")
    return say("shrink.failed", reason=each.reason)


def table(found: Shrunk) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: what was measured of each candidate."""
    on_card = found.budget.on != "cpu"
    threads = [each.threads for each in _original(found).latency]
    names = ["candidate", *(["predicted"] if on_card else []), "faster", "size", "compressed", "memory"]
    headings = [say(f"shrink.head.{each}") for each in names]
    headings[-4:-4] = [f"p50/p99, ms ({count})" for count in threads]
    headings += [say(f"shrink.head.{each}") for each in ("accuracy", "lost", "agreement", "verdict")]
    return headings, [_row(each, on_card, len(threads)) for each in found.candidates]


def _row(each: Verdict, on_card: bool, counts: int) -> list[str]:
    faster = "" if each.faster is None else f"{each.faster:.2f}x"
    seconds = "" if each.latency is None else f"{each.latency * 1e3:.3g}"
    predicted = [f"{seconds} ms" if seconds else ""] if on_card else []
    measured = each.measured
    if measured is None:
        times = ["", *[""] * (counts - 2), seconds] if counts > 1 else [seconds]
        return [
            title(each.name),
            *predicted,
            *(times if not on_card else [""] * counts),
            faster,
            *[""] * 6,
            verdict_text(each),
        ]
    low, high = measured.interval
    least, most = measured.drop_interval
    return [
        title(each.name),
        *predicted,
        *(f"{one.p50 * 1e3:.3g}/{one.p99 * 1e3:.3g}" for one in measured.latency),
        faster,
        bytes_text(measured.size),
        bytes_text(measured.compressed),
        bytes_text(measured.memory),
        f"{measured.accuracy:.2%} ({low:.2%}-{high:.2%})",
        "" if each.name == ORIGINAL else f"{measured.drop * 100:+.2f} ({least * 100:+.2f}..{most * 100:+.2f})",
        f"{measured.agreement:.2%}",
        verdict_text(each),
    ]


def summary(found: Shrunk) -> str:
    """The answer in one sentence, and under what conditions it holds."""
    original = _original(found)
    split = say(f"split.{original.split}")
    told = [say("shrink.conditions", device=found.device, samples=original.samples, split=split)]
    if found.budget.on != "cpu":
        told.append(say("shrink.predicted_for", card=found.budget.on))
    chosen = found.of(found.best or found.nearest)
    if chosen is None or chosen.measured is None:
        return "\n".join([*told, say("shrink.nothing")])
    if chosen.name == ORIGINAL:
        return "\n".join([*told, say("shrink.unchanged", path=chosen.artifact)])
    words: dict[str, Any] = {
        "name": title(chosen.name),
        "faster": f"{chosen.faster or 0:.2f}",
        "change": f"{-chosen.measured.drop * 100:+.2f}",
        "path": chosen.artifact,
    }
    return "\n".join([*told, say("shrink.best", **words) if found.best else say("shrink.none", **words)])


def _original(found: Shrunk) -> Measured:
    first = found.candidates[0].measured
    assert first is not None
    return first


def picture(found: Shrunk) -> bytes:
    """Accuracy over latency: what keeps the budget filled, what was dropped hollow, and the front of those that nothing
    beats in both."""
    made = [each for each in found.candidates if each.measured is not None and each.latency is not None]
    figure, (axes,) = pictures.subplots(1, (9, 5.2))
    points = {each.name: (_drawn_seconds(each, found) * 1e3, _measured_of(each).accuracy * 100) for each in made}
    for kept, key in ((True, "kept"), (False, "dropped")):
        some = [points[each.name] for each in made if each.kept == kept]
        if some:
            axes.scatter(
                *zip(*some, strict=True),
                s=70,
                facecolor=pictures.ACCENT if kept else "none",
                edgecolor=pictures.ACCENT if kept else "#7b8794",
                zorder=3,
                label=say(f"shrink.legend.{key}"),
            )
    front = _front(list(points.values()))
    if len(front) > 1:
        legend = say("shrink.legend.front")
        axes.step(*zip(*front, strict=True), where="post", color=pictures.SECOND, linewidth=1, label=legend)
    low, high = min(y for _, y in points.values()), max(y for _, y in points.values())
    room = max(0.5, (high - low) * 0.15)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0, max(x for x, _ in points.values()) * 1.25)
    goal = _goal_of(found)
    if goal is not None:
        least = (_original(found).accuracy - found.budget.max_drop) * 100
        axes.fill_between(
            [0, goal * 1e3],
            least,
            high + room,
            color=pictures.ACCENT,
            alpha=0.1,
            linewidth=0,
            label=say("shrink.legend.budget"),
        )
    for number, each in enumerate(sorted(made, key=lambda one: points[one.name])):
        above = 7 if number % 2 == 0 else -13
        axes.annotate(title(each.name), points[each.name], xytext=(7, above), textcoords="offset points", fontsize=8)
    threads = _original(found).latency[-1].threads
    on_card = found.budget.on != "cpu"
    axes.set_xlabel(
        say("shrink.axis_predicted", card=found.budget.on) if on_card else say("shrink.axis_latency", threads=threads)
    )
    axes.set_ylabel(say("shrink.axis_accuracy"))
    axes.set_title(say("shrink.title", model=found.model))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return pictures.png(figure)


def _measured_of(each: Verdict) -> Measured:
    assert each.measured is not None
    return each.measured


def _drawn_seconds(each: Verdict, found: Shrunk) -> float:
    """By what was judged: where that is a ratio, the original's time divided by it."""
    first = found.candidates[0].latency
    if found.budget.latency is not None or not first or not each.faster:
        return each.latency or 0.0
    return first / each.faster


def _goal_of(found: Shrunk) -> float | None:
    """Seconds that the budget allows."""
    first = found.candidates[0].latency
    if found.budget.latency is not None or first is None:
        return found.budget.latency
    return None if found.budget.faster is None else first / found.budget.faster


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (latency, accuracy) that no other is at least as good as in both, fastest first."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda each: (each[0], -each[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front
