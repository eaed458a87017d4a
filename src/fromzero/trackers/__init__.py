"""One file a tracker, found by this folder: where the figures of a run go beside its own files. Each has

PACKAGE              what must be installed, in the extra of the tracker's name
start(run, first)    a `Tracker` for a run that goes on from step `first` (0: from its start)

What a tracker must know to go on with the same run of its own stands in run.json under `tracked`. Nothing leaves this
machine unless its user logged in to the service or named a server, in the service's own way.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from fromzero.errors import MissingPackage, UnknownName
from fromzero.records import to_json
from fromzero.runs import Run

ALWAYS = "tensorboard"
PROJECT = "fromzero"


class Tracker(Protocol):
    """`where` says where its figures are found. An `exact` one is told again what came after the step it starts at: it
    has dropped that, or knows what it heard; one that is also `blank` begins anew and is told all. The others are told
    nothing twice, and of a run that was killed they may lack the last word."""

    where: str
    exact: bool

    def tell(self, values: Mapping[str, float], step: int) -> None:
        """Figures by name ("train/loss") at a step. Steps come in their order."""
        ...

    def end(self, finished: bool) -> None:
        """The run is at its end, or was stopped and will go on."""
        ...


def known() -> list[str]:
    return sorted(each.name for each in pkgutil.iter_modules(__path__))


def named(names: str | Iterable[str]) -> tuple[str, ...]:
    """The trackers of a run: those asked for ("wandb,mlflow" or a list), and TensorBoard. Raises UnknownName, and
    MissingPackage for what is not installed."""
    wanted = names.split(",") if isinstance(names, str) else names
    found = tuple(dict.fromkeys([ALWAYS, *(each.strip() for each in wanted if each.strip())]))
    for each in found:
        if each not in known():
            raise UnknownName("tracker", each, known())
        if importlib.util.find_spec(_file(each).PACKAGE) is None:
            raise MissingPackage(_file(each).PACKAGE, each)
    return found


def start(name: str, run: Run, first: int) -> Tracker:
    """Begin, or go on, with a tracker. It may fail in any way of its own."""
    return _file(name).start(run, first)


def settings(run: Run) -> dict[str, Any]:
    """What a run was made with, flat: nothing that names this machine or a folder of it."""
    plan, record = run.plan(), run.record()
    recipe = {name: value for name, value in to_json(plan.recipe).items() if name != "pretrained"}
    return {
        "task": plan.workload.task,
        "model": plan.workload.model.rpartition("/")[2],
        "classes": plan.workload.classes,
        "samples": plan.workload.samples,
        "data_digest": record.get("data_digest", ""),
        "card": plan.card.title,
        "pretrained": plan.recipe.pretrained is not None,
        **recipe,
    }


def kept(run: Run, name: str) -> dict[str, Any]:
    """What a tracker kept of a run."""
    return run.record().get("tracked", {}).get(name, {})


def keep(run: Run, name: str, **values: Any) -> None:
    """Keep it for the next start."""
    run.note(tracked={**run.record().get("tracked", {}), name: values})


def _file(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
