"""What a run tells while it goes: lines for a person, metrics.csv and steps.csv, TensorBoard and other trackers, and
what was measured at its end.

The two files are functions of the recipe and the seed, so that a run that was killed and resumed leaves the same bytes
as one that was not; what the clock and the machine say goes to the trackers and to run.json.
"""

from __future__ import annotations

import csv
import io
import statistics as stats
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from fromzero import tasks, trackers
from fromzero.engine import Engine
from fromzero.errors import DiskError
from fromzero.files import disk_error, write_text
from fromzero.language import say
from fromzero.machine import ledger
from fromzero.machine.process import PeakMemory, process_bytes
from fromzero.machine.watch import GpuSample, Sample, Sampler, own_memory
from fromzero.records import Plan, Recipe, to_json
from fromzero.runs import Run
from fromzero.terminal import Console, bytes_text, seconds_text

TELLING_STEPS = 20  # a run of fewer is mostly the first step's preparations
LOOKED_AT = ("loss", "lr", "gradient_norm")  # the columns of steps.csv


class Watch:
    """A run's records while it goes, from where `state` stands to `total` steps. Only the main process writes."""

    def __init__(self, run: Run, recipe: Recipe, engine: Engine, state: Any, total: int, console: Console) -> None:
        assert recipe.batch is not None
        self.run, self.engine, self.state, self.total, self.console = run, engine, state, total, console
        self.samples = recipe.batch * recipe.accumulate * engine.part[1]  # a step's
        self.first, self.epochs = state.step, recipe.epochs
        self.told = 0, 0  # epochs and steps
        self.steps: TextIO | None = None
        self.trackers: dict[str, trackers.Tracker] = {}
        self.latest: Sample | None = None
        self.besides = 0  # bytes of what the plan knows nothing of: the trackers that were asked for

    def __enter__(self) -> Watch:
        record = self.run.record()
        self.best = tasks.trained(self.run.plan().workload.task).BEST.removeprefix("-")
        self.before = record.get("spent", {"kwh": 0.0, "seconds": 0.0})
        self.base = process_bytes()
        if self.engine.main:
            # What stands in the files was told before, but for the last word of a process that was killed.
            self.told = _last_number(self.run.metrics), max(self.first, _last_number(self.run.steps))
            self.steps = _opened(self.run.steps, self.first)
            self._start(trackers.ALWAYS)
            before = process_bytes()
            for name in record.get("track", ()):
                if name != trackers.ALWAYS:
                    self._start(name)
            self.besides = max(0, process_bytes() - before)
        self.peak = PeakMemory().start()
        self.sampler = Sampler(interval=1.0, each=self._note_sample).start()
        self.began, self.looked = time.perf_counter(), (time.perf_counter(), self.first)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.highest, self.recording = self.peak.stop(), self.sampler.stop()
        if self.steps:
            self.run.note(spent=self._spent())
            self.steps.close()
        for name in list(self.trackers):
            self._try(name, lambda each: each.end(kind is None))

    # --- while it goes ------------------------------------------------------------------------------------------------

    def step(self, values: Mapping[str, float]) -> str:
        """Figures of the step that was just done, one of the few that are looked at; a line about them."""
        step, now = self.state.step, time.perf_counter()
        since, before = self.looked
        speed = (step - before) * self.samples / (now - since)
        self.looked = now, step
        if self.steps:
            try:
                self.steps.write(",".join([str(step), *(str(values.get(name, "")) for name in LOOKED_AT)]) + "\n")
            except OSError as error:
                raise disk_error(self.run.steps, error) from error
        figures = {f"train/{name}": value for name, value in values.items()}
        self._tell({**figures, "speed/samples_per_second": speed}, step, again=step <= self.told[1])
        return " · ".join([f"loss {values['loss']:.3f}", *self._going(speed)])

    def epoch(self) -> None:
        """The last line of the history, in every form. Comes before the checkpoint: a run that is killed between the
        two writes it again, and nothing is lost."""
        history, step = self.state.history, self.state.step
        row, steps = history[-1], step // len(history)
        mine = min(steps, step - self.first)  # those of the epoch that this process did
        speed = mine * self.samples / max(sum(self.state.steps_seconds[-mine:]), 1e-9)
        if self.engine.main:
            text = io.StringIO()
            kept = [name for name in row if name != "seconds"]  # what differs from one run of a recipe to the next
            table = csv.DictWriter(text, fieldnames=kept, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(history)
            write_text(self.run.metrics, text.getvalue())
            self.run.note(spent=self._spent())
        figures = {f"epoch/{name}": row[name] for name in row if name.startswith(("train_", "val_"))}
        self._tell({**figures, **self._machine()}, step, again=len(history) <= self.told[0])
        named = ("val_loss", "val_accuracy", "val_perplexity", self.best)
        measured = (f"{name} {_figure(name, value)}" for name, value in row.items() if name in named)
        self.console.line(
            say(
                "train.epoch_done",
                epoch=int(row["epoch"]),
                epochs=self.total // steps,
                loss=f"{row['train_loss']:.3f}",
                measured=", ".join(measured),
                seconds=seconds_text(row["seconds"]),
                going=", ".join(self._going(speed)),
            )
        )
        self.looked = time.perf_counter(), step  # the validation part is no training

    def _going(self, speed: float) -> list[str]:
        """How fast it goes, how long it still will, and what memory it holds."""
        step = self.state.step
        left = (time.perf_counter() - self.began) / (step - self.first) * (self.total - step)
        texts = [say("watching.speed", speed=f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}")]
        if left:
            texts.append(say("watching.left", time=seconds_text(left)))
        texts.append(bytes_text(self.peak.peak))
        if self.engine.device.type == "cuda":
            texts.append(say("watching.card", bytes=bytes_text(torch.cuda.max_memory_reserved(self.engine.device))))
        return texts

    def _machine(self) -> dict[str, float]:
        """What the machine was last seen doing."""
        found: dict[str, float | None] = {"machine/process_bytes": process_bytes(), "machine/kwh": self._spent()["kwh"]}
        if self.latest is not None:
            found["machine/cpu"] = self.latest.cpu.utilisation
            for card in self.latest.gpus:
                found |= {f"machine/gpu{card.index}_{name}": value for name, value in _of_card(card).items()}
        return {name: float(value) for name, value in found.items() if value is not None}

    def _note_sample(self, sample: Sample) -> None:
        self.latest = sample

    def _spent(self) -> dict[str, Any]:
        """Energy and time of the run up to now, with those of the processes that began it. What a killed process spent
        after its last epoch is not known."""
        now = self.sampler.so_far()
        return {
            "kwh": self.before["kwh"] + now.kwh,
            "seconds": self.before["seconds"] + now.seconds,
            "power_assumed": self.before.get("power_assumed", False) or now.cpu_power_assumed,
        }

    # --- trackers: a run outlives them --------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        try:
            self.trackers[name] = trackers.start(name, self.run, self.first)
        except DiskError:
            raise
        except Exception as error:
            self._lost(name, error)
            return
        if getattr(self.trackers[name], "blank", False):
            self._try(name, self._recall)
        if name in self.trackers and name != trackers.ALWAYS:
            self.console.line(say("watching.tracked", name=name, where=self.trackers[name].where))

    def _recall(self, tracker: trackers.Tracker) -> None:
        """Tell what stands in the files up to here, in its order."""
        with self.run.steps.open(encoding="utf-8", newline="") as file:
            rows = [(int(row.pop("step")), "train/", row) for row in csv.DictReader(file)]
        for epoch in self.state.history:
            step = int(epoch["epoch"]) * (self.total // self.epochs)
            rows.append((step, "epoch/", {n: v for n, v in epoch.items() if n.startswith(("train_", "val_"))}))
        for step, group, row in sorted(rows, key=lambda each: each[0]):
            tracker.tell({group + name: float(value) for name, value in row.items() if value != ""}, step)

    def _tell(self, values: Mapping[str, float], step: int, *, again: bool) -> None:
        for name in list(self.trackers):
            if self.trackers[name].exact or not again:
                self._try(name, lambda each: each.tell(values, step))

    def _try(self, name: str, word: Any) -> None:
        try:
            word(self.trackers[name])
        except DiskError:  # a full disk ends the run where it stands, as it does for the other files
            raise
        except Exception as error:
            del self.trackers[name]
            self._lost(name, error)

    def _lost(self, name: str, error: Exception) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        self.console.line(say("watching.lost", name=name, reason=reason))

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self, planned: Plan, *, whole: bool) -> None:
        """Write what was measured beside what was predicted. A run of the head alone (`whole` false) is not what the
        plan predicted, and teaches the ledger nothing."""
        state = self.state
        step = stats.median(state.steps_seconds) if state.steps_seconds else 0.0
        measured: dict[str, Any] = {
            "step": step,
            "cached_features": not whole,
            "process_peak": self.highest - self.besides,
            "base": self.base,
            "allocated_peak": self.highest - self.besides - self.base,
            "trackers": self.besides,
            "cards": self.recording.gpus,
        }
        device = self.engine.device
        if device.type == "cuda":
            measured["allocated_peak"] = torch.cuda.max_memory_allocated(device)
            measured["reserved_peak"] = torch.cuda.max_memory_reserved(device)
            held = [own_memory(card) or 0 for sample in self.recording.samples for card in sample.gpus]
            measured["process_peak"] = max(held, default=0) or None  # inside a container the driver does not tell
        if whole and self.engine.processes == 1 and len(state.steps_seconds) >= TELLING_STEPS:
            _note(planned, step, measured["process_peak"] or 0)
        best = state.history[state.best_epoch - 1] if state.best_epoch else {}
        self.run.note(
            status="finished",
            measured=to_json(measured | self._spent()),
            best={"epoch": state.best_epoch, **{k: v for k, v in best.items() if k.startswith("val_")}},
            epochs=len(state.history),
        )


def _figure(name: str, value: float) -> str:
    return f"{value:.2%}" if name == "val_accuracy" else f"{value:.3f}"


def _of_card(card: GpuSample) -> dict[str, float | None]:
    names = ("utilisation", "memory_used", "temperature", "power")
    return {name: getattr(card, name) for name in names}


def _last_number(table: Path) -> int:
    """The first column of a CSV file's last whole line; 0 where there is none."""
    if not table.is_file():
        return 0
    whole = table.read_text(encoding="utf-8").rpartition("\n")[0]
    first = whole.rpartition("\n")[2].partition(",")[0]
    return int(float(first)) if first.replace(".", "").isdigit() else 0


def _opened(path: Path, last: int) -> TextIO:
    """steps.csv, to be gone on with behind step `last`: later lines were written by a process that was killed."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    kept = [each for each in lines[1:] if each.endswith("\n") and int(each.partition(",")[0]) <= last]
    write_text(path, "".join([",".join(["step", *LOOKED_AT]) + "\n", *kept]))
    return path.open("a", encoding="utf-8", buffering=1, newline="")  # each line is there before a checkpoint is


def _note(planned: Plan, step: float, peak: int) -> None:
    """A line in the ledger that corrects later plans for this device."""
    ledger.note(
        ledger.Entry(
            when=ledger.now(),
            device=planned.card.title,
            model=planned.workload.model,
            batch=planned.recipe.batch or 0,
            precision=planned.recipe.precision,
            torch=torch.__version__,
            predicted_step=planned.time.step / planned.time.correction,
            measured_step=step,
            predicted_bytes=planned.memory.process_peak,
            measured_bytes=peak,
        )
    )
