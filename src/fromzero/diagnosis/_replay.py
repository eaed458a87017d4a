"""Where the first number that is none came from: the steps since the last checkpoint once more, under observation.

A run is a function of its recipe, its seed and its data, so that the same steps fail at the same place (on a GPU up to
the order of its sums). Nothing is written into the run.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fromzero.data.manifest import Manifest
from fromzero.runs import Run
from fromzero.terminal import Console
from fromzero.training import Job, batches_left, data_of, entered, opened, stepped

MOST_STEPS = 5000  # that are gone through again; a checkpoint is written every minute and at each epoch's end
MOST_SEEN = 100  # operators of the failing step that are told
KEPT = 400  # steps whose largest activation is told
# Operators that write what they are told to or nothing at all: masks of attention, memory not filled yet.
_WRITERS = ("empty", "new_empty", "full", "masked_fill", "where", "fill", "scalar_tensor", "resize", "_to_copy")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """`phase` is "input", "forward", "backward", "update" (finite gradients, and weights that are no numbers after
    them) or "validation"; `module` the innermost module by its path, `operator` ATen's name, "" where it is not known.
    `course` holds (step, largest activation) up to there, `growth` by how many times it grew."""

    step: int
    phase: str
    module: str
    kind: str
    operator: str
    course: tuple[tuple[int, float], ...]
    growth: float
    modules: tuple[tuple[str, float], ...] = ()  # the largest output of each in the failing step, inf for what is none


def replayed(run: Run, manifest: Manifest | None = None) -> Origin | None:
    """The origin of the failure of a run; None where the steps went well this time."""
    job = opened(run, manifest if manifest is not None else data_of(run), Console())
    if job.teacher is not None:  # its answers are no part of a batch here
        return None
    course: list[tuple[int, float]] = []
    failed = int((run.record().get("failed") or {}).get("step", 0))
    last = max(failed, job.state.step) + job.look
    with _Watching(job.learner) as watching:
        for _ in range(MOST_STEPS):
            if job.state.step > min(last, job.total):
                return None
            if job.state.step == 0 or job.state.step % job.per_epoch == 0 or not course:
                batches = batches_left(job)
            before = _copied(job.model)
            parts = list(itertools.islice(batches, job.recipe.accumulate))
            if not parts:
                return None
            parts = [entered(each, job.entry, job.recipe, job.engine.device) for each in parts]
            if not all(_fine(each) for each, _ in parts):
                return _told(job, "input", course)
            watching.reset()
            stepped(job, parts)
            course.append((job.state.step, watching.largest))
            healthy = all(_fine(each) for each in job.model.parameters())
            if watching.first or not healthy:
                return _origin(job, before, parts, course)
            if job.state.step % job.per_epoch == 0:
                job.model.eval()
                rows = job.unvaried.rows("val")[:256]
                inputs, targets = (torch.from_numpy(e) for e in job.unvaried.batch([(int(r), 0) for r in rows]))
                watching.reset()
                with torch.no_grad():
                    job.learner(entered((inputs, targets), job.entry, job.recipe, job.engine.device)[0])
                if watching.first:
                    return _told(job, "validation", course, module=watching.first)
    return None


def _origin(job: Job, before: dict[str, Any], parts: Any, course: Any) -> Origin:
    """The failing step again, from the weights before it, with every operator looked at."""
    job.model.load_state_dict(before)
    job.state.step -= 1
    job.learner.train()
    for each in job.model.parameters():
        each.grad = None
    inputs, targets = parts[-1]
    with _Watching(job.learner) as watching, _Operators(watching) as operators:
        with job.engine.autocast():
            loss = job.loss_of(job.learner(inputs), targets)
        bad_loss = not _fine(loss)
        if bad_loss or watching.first:
            module = watching.first or operators.module
            return _told(job, "forward", course, module, operators.inside(module), watching.given)
        watching.backwards = True
        loss.backward()
    broken = [name for name, each in job.model.named_parameters() if each.grad is not None and not _fine(each.grad)]
    if broken or operators.first:
        module = watching.backward_first or (broken[-1].rpartition(".")[0] if broken else "")
        return _told(job, "backward", course, module, operators.inside(module), watching.given)
    return _told(job, "update", course, given=watching.given)


def _told(
    job: Job, phase: str, course: Any, module: str = "", operator: str = "", given: dict[str, float] | None = None
) -> Origin:
    there = dict(job.learner.named_modules()).get(module)
    finite = [each for _, each in course if math.isfinite(each) and each > 0]
    return Origin(
        step=job.state.step + 1 if phase in ("input", "forward", "backward", "update") else job.state.step,
        phase=phase,
        module=module,
        kind=type(there).__name__ if there is not None else "",
        operator=operator,
        course=tuple(course[-KEPT:]),
        growth=max(finite) / finite[0] if finite else 1.0,
        modules=tuple((given or {}).items()),
    )


class _Watching:
    """Whether what modules give is finite: `first` is the innermost module that gave what is not, `largest` the largest
    that any gave. Backwards, the first module whose output got such a gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.stack: list[str] = []
        self.backwards = False
        self.backward_first = ""
        self.given: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        self.first, self.largest = "", 0.0

    def __enter__(self) -> _Watching:
        self.hooks = []
        for path, each in self.model.named_modules():
            self.hooks.append(each.register_forward_pre_hook(lambda *_, path=path: self.stack.append(path)))
            self.hooks.append(each.register_forward_hook(lambda _, __, given, path=path: self._look(path, given)))
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.hooks:
            each.remove()

    def _look(self, path: str, given: Any) -> None:
        if self.stack:
            self.stack.pop()
        tensor = given[0] if isinstance(given, tuple) else getattr(given, "logits", given)
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or not tensor.numel():
            return
        self.given[path or type(self.model).__name__] = (
            float(tensor.detach().abs().max()) if _fine(tensor) else math.inf
        )
        if _fine(tensor):
            self.largest = max(self.largest, self.given[path or type(self.model).__name__])
        elif not self.first:
            self.first, self.largest = path or self.model.__class__.__name__, math.inf
        if tensor.requires_grad:
            tensor.register_hook(lambda slope, path=path: self._look_back(path, slope))

    def _look_back(self, path: str, slope: torch.Tensor) -> None:
        if self.backwards and not self.backward_first and not _fine(slope):
            self.backward_first = path


class _Operators(TorchDispatchMode):
    """The operators that gave what is no finite number out of finite ones, each with the module that it ran in."""

    def __init__(self, watching: _Watching) -> None:
        super().__init__()
        self.watching = watching
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        result = function(*given, **(named or {}))
        name = str(function).removeprefix("aten.").partition(".")[0]
        if len(self.seen) == MOST_SEEN or name.strip("_").startswith(_WRITERS):
            return result
        if not all(map(_fine, _tensors(result))) and all(map(_fine, _tensors([given, named]))):
            self.seen.append((self.watching.stack[-1] if self.watching.stack else "", name))
        return result

    @property
    def first(self) -> str:
        return self.seen[0][1] if self.seen else ""

    @property
    def module(self) -> str:
        return self.seen[0][0] if self.seen else ""

    def inside(self, module: str) -> str:
        """The last such operator before the module's own output was spoilt, or the first of all."""
        return next((name for path, name in self.seen if path == module), self.first)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, (list, tuple)):
        return [each for part in value for each in _tensors(part)]
    return _tensors(list(value.values())) if isinstance(value, dict) else []


def _fine(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


def _copied(model: nn.Module) -> dict[str, Any]:
    return {name: each.clone() for name, each in model.state_dict().items()}
