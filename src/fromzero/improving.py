"""Iterate to a target: run after run, each changed in one thing by a stated rule, until the validation part is good
enough or the budget is spent.

The rules look at the best run so far, and never propose what was tried. When none is left, Optuna's TPE is asked, which
is told all earlier runs. `improvement.json` in the output folder says what was done and why, and is the study: every
proposal is a function of it and the seed, so that the same call continues after a crash.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fromzero import tasks
from fromzero.data.opening import open_data, whereabouts
from fromzero.errors import FromzeroError, MissingPackage, RunError, UsageError
from fromzero.evaluation import Evaluation
from fromzero.files import disk_error, write_json
from fromzero.language import say
from fromzero.models.build import task_of
from fromzero.records import Recipe, from_json, to_json
from fromzero.report import evaluate
from fromzero.runs import Run
from fromzero.starting import train
from fromzero.terminal import Console
from fromzero.training import resume

FILE = "improvement.json"
GAP, WIDE_GAP = 0.7, 0.5  # training loss as a share of the validation loss
RISEN = 1.02  # times the least loss so far
JUMP, JUMPED = 1.02, 1.1  # times the loss of the epoch before; times the least
FALLING = 0.03  # share that the training loss lost over the last third of the epochs
LR_STEP = 3.0
LONG = 10  # epochs from which mixing pictures can pay
REACH = 30.0  # how far Optuna may go from the first run's learning rate, up and down


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run: `change` to the words of the run `base`, the `rule` it follows from and the `evidence` for that. `state`
    is "running", "finished", "diverged" (the loss was no number any more) or "refused" (the change cannot be made here,
    see `reason`; it costs nothing of the budget). `value` is the best validation measure."""

    run: str
    rule: str
    words: Mapping[str, Any]
    base: str = ""
    evidence: str = ""
    change: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    state: str = "running"
    value: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """`measure` is the task's ("val_accuracy", or "-val_loss" where less is better). `best` names the best run; `tests`
    holds what was measured on the test part, by run: one, unless a finished improvement was continued and found a
    better run."""

    data: str
    measure: str
    target: float
    budget: int
    trials: tuple[Trial, ...]
    best: str = ""
    reached: bool = False
    tests: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def sign(self) -> int:
        return -1 if self.measure.startswith("-") else 1

    @property
    def leader(self) -> Trial | None:
        """The best finished trial; of equals the first."""
        done = [each for each in self.trials if each.value is not None]
        return max(done, key=lambda each: self.sign * (each.value or 0.0), default=None)

    @property
    def spent(self) -> int:
        return sum(each.state in ("finished", "diverged") for each in self.trials)


def improve(
    data: Path | str,
    target: float,
    budget: int = 8,
    *,
    output: Path | str,
    console: Console | None = None,
    **words: Any,
) -> Improvement:
    """Train runs in `output`/trial-1 and so on until the validation measure reaches `target` or `budget` runs are done;
    then measure the best run's test part. The other words are those of `train`. The same call continues where it was
    cut off; with another target or a larger budget, it goes on. Raises MissingPackage without Optuna."""
    console = console or Console()
    if importlib.util.find_spec("optuna") is None:  # now, and not after a night of runs
        raise MissingPackage("optuna", "tune")
    if budget < 1:
        raise UsageError("not_positive", name="budget", value=budget)
    if words.get("nodes", 1) != 1:
        raise UsageError("target_one_machine")
    measure = _measure(data, words.get("model"))
    if not (target > 0 and math.isfinite(target) and (measure.startswith("-") or target <= 1)):
        raise UsageError("no_such_target", target=f"{target:g}", measure=measure.removeprefix("-"))
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    try:
        with FileLock(folder / ".lock", timeout=0):
            return _improve(folder, _opened(folder, data, target, budget, words), words, console)
    except Timeout as error:
        raise RunError("run_in_use", path=folder) from error


def _measure(data: Path | str, model: str | None) -> str:
    """What the best epoch of such a run is chosen by: a share, or with a minus a loss."""
    if model is None:
        manifest = open_data(data, quick=True)
        model = tasks.usual_model(manifest.kind, bool(manifest.classes))
    return tasks.trained(task_of(model)).BEST


def _improve(folder: Path, made: Improvement, words: Mapping[str, Any], console: Console) -> Improvement:
    while not made.reached:
        if not made.trials or made.trials[-1].state != "running":
            if made.spent >= made.budget:
                break
            trial = _proposed(folder, made) if made.trials else Trial(run="trial-1", rule="first", words=words)
            made = _kept(folder, dataclasses.replace(made, trials=(*made.trials, trial)))
        trial = made.trials[-1]
        console.line(_introduced(trial, made))
        trial, measure = _run(folder, trial, made.data, console)
        made = _kept(
            folder, dataclasses.replace(made, trials=(*made.trials[:-1], trial), measure=measure or made.measure)
        )
        console.line(_outcome(trial, made))
    return _concluded(folder, made, console)


def _opened(folder: Path, data: Path | str, target: float, budget: int, words: Mapping[str, Any]) -> Improvement:
    """What was done so far. Raises RunError if that was something else."""
    where = whereabouts(data)
    new = Improvement(data=where, measure="", target=target, budget=budget, trials=())
    path = folder / FILE
    if not path.is_file():
        if any(each.name != ".lock" for each in folder.iterdir()):
            raise RunError("run_exists", path=folder)
        return new
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        trials = tuple(from_json(Trial, each) for each in values["trials"])
        old = dataclasses.replace(new, trials=trials, measure=values["measure"], tests=values["tests"])
        same = values["data"] == where and (not trials or trials[0].words == json.loads(json.dumps(to_json(words))))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError("run_damaged", path=path, reason=repr(error)) from error
    if not same:
        raise RunError("another_improvement", path=folder)
    return _judged(old)


def _judged(made: Improvement) -> Improvement:
    best = made.leader
    if best is None or best.value is None:
        return made
    return dataclasses.replace(made, best=best.run, reached=made.sign * (best.value - made.target) >= 0)


def _kept(folder: Path, made: Improvement) -> Improvement:
    """Written down, before anything follows from it."""
    made = _judged(made)
    write_json(folder / FILE, to_json(made))
    return made


def _run(folder: Path, trial: Trial, data: str, console: Console) -> tuple[Trial, str]:
    """The trial as it ended, and the task's measure. Raises what neither the change nor its learning rate caused."""
    path = folder / trial.run
    if path.exists() and not (path / "run.json").is_file():
        shutil.rmtree(path)  # killed while the run was being made
    try:
        if (path / "run.json").is_file():
            run = resume(path, console)
        else:
            run = train(data, output=path, console=console, **trial.words)
    except FromzeroError as error:
        if error.code == "loss_not_finite":
            return dataclasses.replace(trial, state="diverged", reason=error.cause), ""
        begun = trial.rule == "first" or (path / "run.json").is_file()
        if begun or not (isinstance(error, UsageError) or error.code == "does_not_fit"):
            raise
        return dataclasses.replace(trial, state="refused", reason=error.cause), ""
    measure: str = tasks.trained(run.plan().workload.task).BEST
    value = float(run.record()["best"][measure.removeprefix("-")])
    return dataclasses.replace(trial, state="finished", value=value), measure


def _concluded(folder: Path, made: Improvement, console: Console) -> Improvement:
    """The best run, named, with the one figure that nothing was chosen by."""
    if not made.best:
        console.line(say("improve.nothing", path=folder))
        return made
    if made.best not in made.tests:
        found = evaluate(folder / made.best, None, Console())
        measures = dict(found.measures) if isinstance(found, Evaluation) else {"loss": found.loss}
        made = _kept(folder, dataclasses.replace(made, tests={**made.tests, made.best: measures}))
    return made


# --- what is proposed -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A finished run as the rules see it: its recipe, its task, and the lines of its metrics.csv."""

    recipe: Recipe
    task: str
    rows: tuple[Mapping[str, float], ...]

    @property
    def train_loss(self) -> float:
        return self.rows[-1]["train_loss"]

    @property
    def val_loss(self) -> float:
        return self.rows[-1]["val_loss"]


def _proposed(folder: Path, made: Improvement) -> Trial:
    """The next trial: of the first rule that has something new to try on the best run, else Optuna's."""
    base = made.leader or next(each for each in reversed(made.trials) if each.state != "refused")
    seen = look_at(Run(folder / base.run))
    words = {**base.words, "batch": seen.recipe.batch}  # so that only the change changes
    if words.get("lr") == "find":
        words["lr"] = seen.recipe.lr
    number = sum(each.state != "refused" for each in made.trials) + 1
    suggested = _suggested(seen, base.state == "diverged")
    new = (each for each in suggested if not _tried(folder, made, seen.recipe, {**words, **each[2]}, each[2]))
    rule, evidence, change = next(new, ("optuna", say("improve.no_rule"), {}))
    change = change or _asked(folder, made, seen)
    return Trial(
        run=f"trial-{number}",
        rule=rule,
        words={**words, **change},
        base=base.run,
        evidence=evidence,
        change=change,
    )


def look_at(run: Run) -> Seen:
    planned = run.plan()
    rows = []
    if run.metrics.is_file():
        head, *lines = run.metrics.read_text(encoding="utf-8").splitlines()
        rows = [dict(zip(head.split(","), map(float, each.split(",")), strict=True)) for each in lines]
    return Seen(planned.recipe, planned.workload.task, tuple(rows))


def _suggested(seen: Seen, diverged: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Rule, evidence and change of all that the rules propose, in their order."""
    if diverged or not seen.rows:
        yield from (("diverged", say("improve.diverged"), change) for change in calmer(seen))
        return
    for rule, (sees, changes) in RULES.items():
        evidence = sees(seen)
        if evidence:
            yield from ((rule, evidence, change) for change in changes(seen))
            return


def _overfits(seen: Seen) -> str:
    """The training loss well below the validation loss, which rose again; or so far below that it does not matter."""
    losses = [each["val_loss"] for each in seen.rows]
    risen = seen.val_loss > RISEN * min(losses) and seen.train_loss < GAP * seen.val_loss
    if not risen and seen.train_loss >= WIDE_GAP * seen.val_loss:
        return ""
    least = min(losses)
    told = {"train": seen.train_loss, "val": seen.val_loss, "least": least}
    return say("improve.overfits", epoch=losses.index(least) + 1, **{n: f"{v:.3g}" for n, v in told.items()})


def _jumps(seen: Seen) -> str:
    losses = [each["train_loss"] for each in seen.rows]
    rises = sum(after > JUMP * before for before, after in itertools.pairwise(losses))
    if rises < max(2, len(losses) / 3) and losses[-1] <= JUMPED * min(losses):
        return ""
    told = {"last": f"{losses[-1]:.3g}", "least": f"{min(losses):.3g}"}
    return say("improve.jumps", rises=rises, epochs=len(losses), **told)


def _underfits(seen: Seen) -> str:
    if len(seen.rows) == 1:
        return say("improve.one_epoch")
    apart = seen.train_loss < GAP * seen.val_loss and seen.val_loss > min(each["val_loss"] for each in seen.rows)
    return "" if apart or _fall(seen) < FALLING else say("improve.underfits", **_standing(seen))


def _stands(seen: Seen) -> str:
    return say("improve.stands", **_standing(seen))


def _standing(seen: Seen) -> dict[str, Any]:
    fall = _fall(seen)
    told = {"train": f"{seen.train_loss:.3g}", "val": f"{seen.val_loss:.3g}"}
    return {"epochs": _last_third(seen), **told, "fall": f"{fall:.1%}", "change": f"{-fall:+.1%}"}


def _last_third(seen: Seen) -> int:
    return max(1, len(seen.rows) // 3)


def _fall(seen: Seen) -> float:
    """The share that the training loss lost over the last third of the epochs."""
    before = seen.rows[-1 - min(_last_third(seen), len(seen.rows) - 1)]["train_loss"]
    return 1 - seen.train_loss / before if before else 0.0


def regularised(seen: Seen) -> Iterator[dict[str, Any]]:
    recipe = seen.recipe
    if seen.task in ("image", "custom"):
        if recipe.augmentation == "none":
            yield {"augmentation": "auto"}
        if recipe.mix == "none" and recipe.epochs >= LONG:
            yield {"mix": "mixup"}
    if (recipe.dropout or 0.0) < 0.4:
        yield {"dropout": round((recipe.dropout or 0.0) + 0.2, 3)}
    if seen.task != "lm" and not recipe.label_smoothing:
        yield {"label_smoothing": 0.1}
    if recipe.weight_decay < 0.5:
        yield {"weight_decay": _short(max(0.01, recipe.weight_decay * LR_STEP))}


def calmer(seen: Seen) -> Iterator[dict[str, Any]]:
    assert seen.recipe.lr is not None
    yield {"lr": _short(seen.recipe.lr / LR_STEP)}
    if not seen.recipe.clip:
        yield {"clip": 1.0}


def learning_more(seen: Seen) -> Iterator[dict[str, Any]]:
    assert seen.recipe.lr is not None
    yield {"epochs": 2 * seen.recipe.epochs}
    yield {"lr": _short(seen.recipe.lr * LR_STEP)}
    yield from _thawed(seen)


def _otherwise(seen: Seen) -> Iterator[dict[str, Any]]:
    if seen.recipe.cards == 1:
        yield {"lr": "find"}
    yield from _thawed(seen)


def _thawed(seen: Seen) -> Iterator[dict[str, Any]]:
    recipe = seen.recipe
    if recipe.freeze == "backbone" and not recipe.lora_rank and recipe.cards == 1:
        yield {"freeze": "gradual"}
    elif recipe.freeze != "none":
        yield {"freeze": "none"}


# What a rule sees, as a sentence or "", and what it then tries, in this order. The last one always sees something.
RULES: dict[str, tuple[Callable[[Seen], str], Callable[[Seen], Iterator[dict[str, Any]]]]] = {
    "overfitting": (_overfits, regularised),
    "noise": (_jumps, calmer),
    "underfitting": (_underfits, learning_more),
    "plateau": (_stands, _otherwise),
}


def _tried(
    folder: Path, made: Improvement, recipe: Recipe, words: Mapping[str, Any], change: Mapping[str, Any]
) -> bool:
    """Whether a trial was this already: said in the same words, or come out as the same recipe."""
    if any(each.words == words or each.change == change == {"lr": "find"} for each in made.trials):
        return True
    if "find" in change.values() or "auto" in change.values():
        return any(each.change == change for each in made.trials)
    wanted = dataclasses.replace(recipe, **change)
    return any(_alike(Run(folder / each.run).plan().recipe, wanted) for each in made.trials if each.state != "refused")


def _alike(one: Recipe, other: Recipe) -> bool:
    """Equal but for the last digits of what was rounded."""
    return all(
        math.isclose(a, b, rel_tol=0.01) if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    )


def _asked(folder: Path, made: Improvement, seen: Seen) -> dict[str, Any]:
    """What Optuna's TPE would try next, in the light of all runs. A sampler that is made anew for each question, with
    a seed of its own, answers the same after a crash."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = _space(made, Run(folder / made.trials[0].run).plan().recipe, seen.task)
    sampler = optuna.samplers.TPESampler(seed=seen.recipe.seed + len(made.trials), n_startup_trials=3)
    study = optuna.create_study(direction="maximize" if made.sign > 0 else "minimize", sampler=sampler)
    for each in made.trials:
        if each.state not in ("finished", "diverged"):
            continue
        recipe = Run(folder / each.run).plan().recipe
        values = {name: getattr(recipe, name) for name in space}
        # a rate of None is the model's own, which nobody knows here
        known = {n: float(v) for n, v in values.items() if v is not None and space[n].low <= v <= space[n].high}
        told: dict[str, Any] = {"params": known, "distributions": {name: space[name] for name in known}}
        if each.value is None:
            study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, **told))
        else:
            study.add_trial(optuna.trial.create_trial(value=each.value, **told))
    return {name: _short(value) for name, value in study.ask(space).params.items()}


def _space(made: Improvement, first: Recipe, task: str) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution

    assert first.lr is not None
    space = {
        "lr": FloatDistribution(first.lr / REACH, first.lr * REACH, log=True),
        "weight_decay": FloatDistribution(1e-4, 0.5, log=True),
    }
    if task != "lm":
        space["label_smoothing"] = FloatDistribution(0.0, 0.2)
    if not any(each.state == "refused" and "dropout" in each.change for each in made.trials):
        space["dropout"] = FloatDistribution(0.0, 0.5)
    return space


def _short(value: float) -> float:
    """Three digits: a person reads it."""
    return float(f"{value:.3g}")


# --- what is said ---------------------------------------------------------------------------------------------------


def _introduced(trial: Trial, made: Improvement) -> str:
    told = {"run": trial.run, "number": made.spent + 1, "budget": made.budget}
    if trial.rule == "first":
        return say("improve.first", **told)
    change, rule = _flags(trial.change), say(f"improve.rule.{trial.rule}")
    return say("improve.change", base=trial.base, rule=rule, evidence=trial.evidence, change=change, **told)


def _flags(change: Mapping[str, Any]) -> str:
    return shlex.join(part for name, value in change.items() for part in (f"--{name.replace('_', '-')}", f"{value}"))


def _outcome(trial: Trial, made: Improvement) -> str:
    if trial.value is None:
        return say(f"improve.{trial.state}_outcome", run=trial.run, reason=trial.reason)
    measure = made.measure.removeprefix("-")
    value, best = f"{trial.value:.4g}", made.leader
    assert best is not None
    return say(
        "improve.outcome",
        run=trial.run,
        measure=measure,
        value=value,
        target=f"{made.target:g}",
        best=best.run,
        highest=f"{best.value:.4g}",
    )


def summary(made: Improvement) -> str:
    """The improvement in a few lines."""
    best = made.leader
    if best is None:
        return say("improve.none_finished")
    told = {"measure": made.measure.removeprefix("-"), "value": f"{best.value:.4g}", "target": f"{made.target:g}"}
    key = "improve.reached" if made.reached else "improve.spent"
    test = ", ".join(f"{name} {value:.4f}" for name, value in made.tests.get(best.run, {}).items())
    return "\n".join(
        [say(key, run=best.run, runs=made.spent, **told), say("improve.test", run=best.run, measures=test)]
    )
