"""Cross-validation: every sample is a test sample once, so that a small data set says how sure its figure is."""

from __future__ import annotations

import json
import math
import shutil
import statistics as stats
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.data.opening import whereabouts
from fromzero.errors import RunError, UsageError
from fromzero.evaluation import Evaluation, LanguageEvaluation, wilson
from fromzero.files import write_json
from fromzero.language import say
from fromzero.records import to_json
from fromzero.report import evaluate
from fromzero.runs import Run
from fromzero.starting import train
from fromzero.terminal import Console
from fromzero.training import resume

SUMMARY = "cross-validation.json"
ASKED = "asked.json"  # what it is of: data and words


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """`measures` of each fold; their `mean` and the half width of its 95 % interval over the folds (Student's t, which
    takes folds for independent; they share most of what they learn from, so it is somewhat narrow). `accuracy` counts
    every sample once, with Wilson's interval; None for what has no classes."""

    folds: int
    runs: tuple[str, ...]
    measures: tuple[Mapping[str, float], ...]
    mean: Mapping[str, float]
    half_width: Mapping[str, float]
    accuracy: float | None
    interval: tuple[float, float] | None


def cross_validate(
    data: Path | str, folds: int = 5, *, output: Path | str, console: Console | None = None, **words: Any
) -> CrossValidation:
    """Train and evaluate `folds` runs, `output`/fold-1 and so on: in each, one fold is the test part and a validation
    part is taken from the rest. The other words are those of `train`. Folds that are finished are kept and one that was
    cut off goes on, so the same call continues after a crash. Raises UsageError for fewer than two folds, and RunError
    where `output` holds one of other data or with other words."""
    console = console or Console()
    if folds < 2:
        raise UsageError("bad_fold", fold=0, folds=folds)
    _claim(Path(output), data, words)
    found: list[Evaluation | LanguageEvaluation] = []
    runs = []
    for number in range(folds):
        path = Path(output) / f"fold-{number + 1}"
        console.line(say("folds.fold", fold=number + 1, folds=folds))
        run = _trained(path, data, (number, folds), console, words)
        runs.append(str(run.path))
        found.append(evaluate(run.path, "test", Console()))
    made = _together(folds, tuple(runs), found)
    write_json(Path(output) / SUMMARY, to_json(made))
    return made


def _claim(output: Path, data: Path | str, words: Mapping[str, Any]) -> None:
    """Write down what this is of; refuse a folder that holds something else."""
    asked = json.loads(json.dumps({"data": whereabouts(data), "words": to_json(words)}, default=str))
    path = output / ASKED
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != asked:
            raise RunError("another_cross_validation", path=output)
    elif (output / "fold-1" / "run.json").is_file():
        raise RunError("another_cross_validation", path=output)
    else:
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)


def _trained(path: Path, data: Path | str, fold: tuple[int, int], console: Console, words: Mapping[str, Any]) -> Run:
    if not (path / "run.json").is_file():
        try:
            return train(data, output=path, fold=fold, console=console, **words)
        finally:
            if [each.name for each in path.parent.iterdir()] == [ASKED]:  # refused before anything was written
                shutil.rmtree(path.parent)
    if tuple(Run(path).record().get("fold") or ()) != fold:
        raise RunError("run_exists", path=path)
    return resume(path, console)


def _together(folds: int, runs: tuple[str, ...], found: list[Evaluation | LanguageEvaluation]) -> CrossValidation:
    measures = [dict(each.measures) if isinstance(each, Evaluation) else {"loss": each.loss} for each in found]
    names = [name for name in measures[0] if all(math.isfinite(each.get(name, math.nan)) for each in measures)]
    values = {name: [each[name] for each in measures] for name in names}
    counted = [each for each in found if isinstance(each, Evaluation)]
    samples = sum(each.samples for each in counted)
    right = sum(round(each.accuracy * each.samples) for each in counted)
    return CrossValidation(
        folds=folds,
        runs=runs,
        measures=tuple(measures),
        mean={name: stats.fmean(each) for name, each in values.items()},
        half_width={name: _t(folds) * stats.stdev(each) / math.sqrt(folds) for name, each in values.items()},
        accuracy=right / samples if samples else None,
        interval=wilson(right, samples) if samples else None,
    )


def _t(folds: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, folds - 1))


def summary(made: CrossValidation) -> str:
    """The cross-validation in a few lines."""
    lines = [f"{name}: {value:.4f} ± {made.half_width[name]:.4f}" for name, value in made.mean.items()]
    if made.accuracy is not None and made.interval is not None:
        low, high = made.interval
        lines.append(say("folds.accuracy", accuracy=f"{made.accuracy:.2%}", low=f"{low:.2%}", high=f"{high:.2%}"))
    return "\n".join([say("folds.done", folds=made.folds), *lines])
