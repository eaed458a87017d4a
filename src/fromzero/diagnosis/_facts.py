"""What is known of a run: its records as they lie in the folder, and a short probe of its weights.

Everything is computed when it is first asked for: a family that reads the records alone costs nothing.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fromzero import checkpoint, tasks
from fromzero.data import suspects
from fromzero.data.check import DataReport, check
from fromzero.data.checks import copies
from fromzero.data.checks import pictures as of_pictures
from fromzero.data.checks import table as of_table
from fromzero.data.folder import looks_of
from fromzero.data.manifest import Manifest
from fromzero.data.rows import grams
from fromzero.data.rows.content import texts
from fromzero.diagnosis._replay import Origin, replayed
from fromzero.errors import RunError, UsageError
from fromzero.evaluation import answers_of
from fromzero.finding import Found
from fromzero.improving import Seen, look_at
from fromzero.models.adapters import merge_adapters
from fromzero.models.fresh import fresh
from fromzero.models.initialise import LayerScale, scales
from fromzero.records import Plan, Recipe
from fromzero.runs import Run
from fromzero.starting import found_lr
from fromzero.terminal import Console
from fromzero.training import data_of, entered

TRAINING_ROWS = 1000  # enough that an accuracy is known to 3 points
HELD_OUT_ROWS = 4000
GRADIENT_ROWS = 128  # enough that a unit which fires for one sample in twenty is seen to
JUDGED_ROWS = 3000  # that the quick judge learns from
JUDGED_LEAST = 40  # fewer teach it nothing


@dataclass(frozen=True, eq=False)
class Part:
    """What the model answers to some rows: probabilities (N, classes) and true classes (N,)."""

    rows: np.ndarray
    scores: np.ndarray
    truth: np.ndarray

    @functools.cached_property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return self.scores.argmax(axis=1) == self.truth

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def error(self) -> float:
        """The standard error of the accuracy, one sample added on each side so that it is never 0."""
        count = len(self.truth)
        share = (self.right.sum() + 1) / (count + 2)
        return float((share * (1 - share) / count) ** 0.5)


class Facts:
    """A run and what can be read from it. Raises RunError for a folder that is none."""

    def __init__(self, run: Run, console: Console | None = None) -> None:
        self.run, self.console = run, console or Console()
        self.plan: Plan = run.plan()
        self.record: dict[str, Any] = run.record()
        self.recipe: Recipe = self.plan.recipe
        self.kind: str = self.plan.workload.task
        self.task = tasks.trained(self.kind)
        usable = self.record.get("device") == "cuda" and torch.cuda.is_available()
        self.device = torch.device("cuda" if usable else "cpu")
        self.seen: Seen = look_at(run)
        self._once: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made when it is first asked for."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    # --- records ------------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[Any, ...]:
        """The lines of metrics.csv."""
        return self.seen.rows

    @functools.cached_property
    def steps(self) -> dict[str, np.ndarray]:
        """The columns of steps.csv, NaN where nothing stands."""
        found: dict[str, list[float]] = {"step": [], "loss": [], "lr": [], "gradient_norm": []}
        if self.run.steps.is_file():
            with self.run.steps.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    for name, values in found.items():
                        values.append(float(row.get(name) or "nan"))
        return {name: np.array(values) for name, values in found.items()}

    @property
    def measured(self) -> dict[str, Any]:
        """What was measured at the run's end; empty if it has not come to it."""
        return self.record.get("measured") or {}

    @property
    def broken(self) -> bool:
        """Whether the loss was no number any more, which ended the run."""
        return self.record["status"] != "finished" and "failed" in self.record

    @property
    def from_scratch(self) -> bool:
        """Whether the seed says what the weights were before the first step."""
        return not self.recipe.filled

    # --- the data -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def manifest(self) -> Manifest:
        found = data_of(self.run, self.console)
        if found.classes != self.run.labels():  # a new class folder renumbers the others
            raise RunError("data_changed", path=self.record["data"])
        return found

    @functools.cached_property
    def how(self) -> Any:
        return self.run.preprocessing()

    @functools.cached_property
    def samples(self) -> Any:
        """As they are, unvaried."""
        return self.task.samples(self.manifest, self.how, None, self.console)

    @functools.cached_property
    def report(self) -> DataReport:
        """What `data check` says."""
        return check(self.manifest, self.console)

    def some(self, split: str, most: int) -> np.ndarray:
        """At most so many rows of a split, drawn by a fixed seed."""
        rows = self.samples.rows(split)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        return rows

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Training samples of each class."""
        return self.manifest.counts(self.manifest.rows("train"))

    # --- the model ----------------------------------------------------------------------------------------------------

    @property
    def learned(self) -> bool:
        """Whether there are weights of a finished epoch."""
        return checkpoint.exists(self.run.last) and bool(self.rows)

    @functools.cached_property
    def model(self) -> nn.Module:
        """With the last weights, which the last line of metrics.csv is about; the first where there are no others."""
        model = self._fresh(self.recipe)
        if checkpoint.exists(self.run.last):
            model.load_state_dict(checkpoint.load(self.run.last, "model")[0]["model"])
        return merge_adapters(model).to(self.device).eval()

    def _fresh(self, recipe: Recipe) -> nn.Module:
        return fresh(self.plan.workload, dataclasses.replace(recipe, checkpointing="none"))

    @functools.cached_property
    def _entry(self) -> Any:
        return self.task.entry(self.how).to(self.device)

    def batch(self, rows: np.ndarray) -> tuple[Any, Any]:
        """Rows as the model takes them, on the device."""
        inputs, targets = (torch.from_numpy(each) for each in self.samples.batch([(int(row), 0) for row in rows]))
        return entered((inputs, targets), self._entry, self.recipe, self.device)

    def answers(self, split: str, most: int, change: Callable[[np.ndarray], np.ndarray] | None = None) -> Part | None:
        """What the model says to rows of a split, their inputs changed as loaded; None for a language model, which has
        no classes."""
        rows = self.some(split, most)
        if self.kind == "lm" or not len(rows):
            return None

        def answer(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                inputs = inputs if change is None else np.ascontiguousarray(change(inputs))
                given = (torch.from_numpy(inputs), torch.from_numpy(targets))
                outputs = self.model(entered(given, self._entry, self.recipe, self.device)[0])
                return self.task.answers(outputs).float().cpu().numpy()

        scores, truth = answers_of(answer, self.samples, rows)
        return Part(rows, scores, truth) if np.isfinite(scores).all() else None

    @functools.cached_property
    def train(self) -> Part | None:
        return self.answers("train", TRAINING_ROWS) if self.learned else None

    @functools.cached_property
    def val(self) -> Part | None:
        return self.answers("val", HELD_OUT_ROWS) if self.learned else None

    @functools.cached_property
    def mirrored(self) -> Part | None:
        """The validation pictures, each in a mirror."""
        if self.manifest.kind != "pictures" or not self.learned:
            return None
        return self.answers("val", HELD_OUT_ROWS, lambda pictures: pictures[:, :, ::-1])

    @property
    def parts(self) -> tuple[Part, Part] | None:
        """The training and the validation part, where there are both."""
        return (self.train, self.val) if self.train is not None and self.val is not None else None

    # --- layers -------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _few(self) -> tuple[Any, Any]:
        return self.batch(self.some("train", GRADIENT_ROWS))

    def scales_of(self, model: nn.Module) -> tuple[LayerScale, ...]:
        """Activations and gradients layer by layer. What flows back is not the loss's gradient, which is nothing where
        the answers are right, but one number drawn for each output: how the network passes on, and no more."""
        return scales(model, *self._few, _drawn).layers

    @functools.cached_property
    def now(self) -> tuple[LayerScale, ...]:
        return self.scales_of(self.model)

    @functools.cached_property
    def start(self) -> tuple[LayerScale, ...]:
        """Before the first step; trained weights that a run began with are not kept, and its first look stands for
        them."""
        if self.from_scratch:
            return self.scales_of(self.beginning())
        kept = (self.record.get("scales") or {}).get("layers", ())
        return tuple(LayerScale(**each) for each in kept)

    def beginning(self, **change: Any) -> nn.Module:
        """The model before the first step, of the recipe or of a changed one."""
        return self._fresh(dataclasses.replace(self.recipe, **change)).to(self.device)

    def takes(self, change: dict[str, Any]) -> dict[str, Any]:
        """What of a change of recipe this model can be told: one without dropout has no rate of it."""
        kept = {}
        for name, value in change.items():
            try:
                if name in ("dropout", "freeze", "init"):
                    self.beginning(**{name: value})
            except UsageError:
                continue
            kept[name] = value
        return kept

    @functools.cached_property
    def travel(self) -> dict[str, float]:
        """How far each matrix of weights went from where it started, by its length there."""
        begun = dict(self.beginning().named_parameters())
        return {
            name: float((each.detach() - begun[name].detach()).norm() / (begun[name].detach().norm() + 1e-12))
            for name, each in self.model.named_parameters()
            if each.dim() > 1 and each.requires_grad and name in begun and each.shape == begun[name].shape
        }

    # --- what others make of the same data ----------------------------------------------------------------------------

    @functools.cached_property
    def found(self) -> Found | None:
        """The learning-rate range test of this recipe, on a model that is thrown away."""
        return found_lr(self.plan, self.manifest, self.how, self.device.type, None, self.console)

    @functools.cached_property
    def judged(self) -> dict[int, float]:
        """Training rows -> the accuracy, on rows it did not see, of a quick judge of the same samples (a linear or
        kernel machine on cheap features, see `data.suspects`) that learnt from so many: of all (at most JUDGED_ROWS),
        half and a quarter of them. Empty where it cannot look."""
        if self.kind == "lm" or not self.manifest.classes:
            return {}
        rows = copies.learnable(self.manifest, self.some("train", JUDGED_ROWS), 2)
        if len(rows) < JUDGED_LEAST:
            return {}
        rows = np.random.default_rng(0).permutation(rows)
        labels = self.manifest["label"][rows]
        target = np.unique(labels, return_inverse=True)[1]
        features, judge = self.features(rows)
        found = {}
        for share in (4, 2, 1):
            part = np.arange(len(rows) // share)
            fold = part % suspects.FOLDS
            scores = judge(features[part], target[part], fold, int(target.max()) + 1)
            found[len(part)] = float((scores.argmax(axis=1) == target[part]).mean())
        return found

    def features(self, rows: np.ndarray) -> tuple[Any, Any]:
        """Cheap features of samples, dense or sparse (rows, numbers), and the judge that suits them."""
        if self.manifest.kind == "pictures":
            return of_pictures.described(looks_of(self.manifest), rows), suspects.out_of_fold
        if self.manifest.kind == "table":
            return of_table.features(self.manifest, rows), copies.linear
        return grams.commonest(grams.tfidf(texts(self.manifest), rows), 20_000), copies.linear

    @property
    def reference(self) -> float | None:
        """The judge's accuracy."""
        return self.judged[max(self.judged)] if self.judged else None

    @functools.cached_property
    def chance(self) -> float:
        """The share of the most frequent class: what is right without looking."""
        return float(self.counts.max() / max(1, self.counts.sum())) if len(self.counts) else 0.0

    @functools.cached_property
    def origin(self) -> Origin | None:
        """Where the first number that is none came from; None if the run did not fail, or it could not be found."""
        return replayed(self.run, self.manifest) if self.broken else None

    # --- what several families ask ------------------------------------------------------------------------------------

    @functools.cached_property
    def behind(self) -> float:
        """How far the model's accuracy on its own training rows stays, beyond doubt, behind what can be had: the
        judge's on rows it never saw. 0 or less: it does not."""
        if self.train is None or self.reference is None:
            return 0.0
        return self.reference - self.train.accuracy - 1.96 * self.train.error

    @functools.cached_property
    def ahead(self) -> float:
        """How far the accuracy on training rows is, beyond doubt, ahead of that on validation rows."""
        if self.parts is None:
            return 0.0
        train, val = self.parts
        return train.accuracy - val.accuracy - 1.96 * float(np.hypot(train.error, val.error))


def _drawn(outputs: Any, targets: Any) -> Any:
    logits = getattr(outputs, "logits", outputs).float()
    numbers = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return (logits * numbers.to(logits.device)).sum()
