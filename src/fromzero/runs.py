"""A run is a folder: the plan it follows, what was measured, and the weights it reached.

plan.json  run.json  metrics.csv  steps.csv  tensorboard/  checkpoints/{last,best}/  report.html  figures/
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fromzero import preprocessing
from fromzero.errors import RunError, UsageError
from fromzero.files import disk_error, write_json
from fromzero.models.families import pruned
from fromzero.records import Plan, plan_from_json, to_json


@dataclass(frozen=True)
class Run:
    """A run folder. Reading raises RunError where the folder is not a run or is damaged."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def steps(self) -> Path:
        return self.path / "steps.csv"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def plan(self) -> Plan:
        values = self._read("plan.json")
        try:
            found = plan_from_json(values)
        except (KeyError, TypeError) as error:
            raise RunError("run_damaged", path=self.path / "plan.json", reason=repr(error)) from error
        own = self.path / pruned.path_of(found.workload.model).name  # how a pruned network was pruned
        if not pruned.takes(found.workload.model) or not own.is_file():
            return found
        return replace(found, workload=replace(found.workload, model=f"{pruned.PREFIX}{own}"))

    def record(self) -> dict[str, Any]:
        """run.json: data, classes, preprocessing, status, predicted beside measured, versions."""
        values = self._read("run.json")
        missing = [name for name in ("data", "classes", "preprocessing", "status") if name not in values]
        if missing:
            raise RunError("run_damaged", path=self.path / "run.json", reason=", ".join(missing))
        return values

    def note(self, **values: Any) -> None:
        """Add to run.json, or replace what is there under the same name."""
        path = self.path / "run.json"
        write_json(path, {**(self.record() if path.is_file() else {}), **to_json(values)})

    def labels(self) -> tuple[str, ...]:
        return tuple(self.record()["classes"])

    def preprocessing(self) -> Any:
        """The record of how a sample becomes an input: `Preprocessing`, `Tokens` or `Columns`."""
        return preprocessing.read(self.path, self.plan().workload.task, self.record()["preprocessing"])

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if not self.path.exists():
                raise UsageError("no_such_run", path=self.path) from error
            raise RunError("not_a_run", path=self.path, file=name) from error
        except (ValueError, OSError) as error:
            raise RunError("run_damaged", path=path, reason=error) from error


def create(path: Path | None, name: str, plan: Plan, how: Any, **record: Any) -> Run:
    """A new run in `path`, or in the next free `runs/<name>-<number>`. An existing run is never written over."""
    path = path or next_free(name)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError("run_exists", path=path)
    run = Run(path)
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        if pruned.takes(plan.workload.model):  # the run keeps its own copy of the file
            structure = pruned.path_of(plan.workload.model)
            shutil.copyfile(structure, path / structure.name)
    except OSError as error:
        raise disk_error(path, error) from error
    write_json(path / "plan.json", to_json(plan))
    run.note(status="started", preprocessing=preprocessing.write(path, how), **record)
    return run


def next_free(name: str) -> Path:
    """`runs/<name>-<number>` with the first number that is not taken."""
    number = 1
    while (path := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return path
