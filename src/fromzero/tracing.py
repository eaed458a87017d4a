"""The workload's step on `meta` tensors, and its traces, kept: the very `training_step` that training runs.

Workload, Recipe, Card -> step_of -> trace -> the line between two small batches -> Trace
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fromzero.errors import FromzeroError, UsageError
from fromzero.models.build import built_on_meta
from fromzero.planner.search import between
from fromzero.planner.trace import MetaEngine, Trace, trace
from fromzero.records import Card, Recipe, Workload
from fromzero.step import inference_step, make_optimizer, training_step

# Two small batches give the line on which all others lie.
PROBES = (8, 16)


def trace_at(workload: Workload, recipe: Recipe, card: Card, steps: int, batch: int) -> Trace:
    """The trace of `steps` steps at `batch`; shared by all cards that take the same kernels, and by recipes that differ
    only in what a trace does not show."""
    # Timing has its own length; a trace does not depend on how many samples there are.
    workload = dataclasses.replace(workload, samples=0)
    return _trace_at(workload, _as_traced(recipe), _generation(card), steps, batch)


def step_of(workload: Workload, recipe: Recipe, batch: int) -> Callable[[MetaEngine], Any]:
    """The workload's step as the planner traces it: the very `training_step` that training runs, on `meta` tensors."""

    def build(engine: MetaEngine) -> Any:
        from fromzero.models.adapt import adapt, train_mode
        from fromzero.models.adapters import quantise
        from fromzero.models.averaging import averaged
        from fromzero.models.layers import blocks

        model = built_on_meta(workload)
        _check_length(model, workload)
        adapt(model, recipe)
        units = [path for path, _ in blocks(model)]
        _set_precision(model, recipe)
        if recipe.base_quantisation != "none":
            quantise(model, recipe)
        engine.watch(model, units)
        if workload.purpose == "infer":
            model.eval()
            weights = [("weights", [*model.parameters(), *model.buffers()])]
            return (lambda: inference_step(engine, model, _inputs(workload, recipe, batch)[0])), lambda: weights
        train_mode(model)
        plain = make_optimizer(model, recipe)
        optimizer = engine.prepare_optimizer(plain)
        average = averaged(model, recipe.ema) if recipe.ema else None
        loss = _task(workload).loss_for(recipe)
        keep: list[Any] | None = [] if recipe.keep_outputs else None

        def run() -> None:
            batches = [_inputs(workload, recipe, batch) for _ in range(recipe.accumulate)]
            training_step(engine, model, loss, optimizer, batches, recipe, keep)
            if average is not None:
                average.update_parameters(model)

        def owned() -> Any:
            yield "weights", [*model.parameters(), *model.buffers()]
            yield "gradients", [each.grad for each in model.parameters() if each.grad is not None]
            yield "optimizer", _state_tensors(plain)
            if average is not None:  # kept beside the weights, and moved by every step
                yield "optimizer", [*average.parameters(), *average.buffers()]

        return run, owned

    return build


@functools.lru_cache(maxsize=64)
def block_count(workload: Workload) -> int:
    """How many repeated blocks a model has: what `checkpointing` counts."""
    from fromzero.models.layers import blocks

    return len(blocks(built_on_meta(workload)))


# --- traces, kept ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)  # cards of one generation share it
def _trace_at(workload: Workload, recipe: Recipe, capability: tuple[int, int] | None, steps: int, batch: int) -> Trace:
    one, other = (_traced(workload, recipe, capability, steps, probe) for probe in PROBES)
    return between(one, other, batch) or _traced(workload, recipe, capability, steps, batch)


@functools.lru_cache(maxsize=64)
def _traced(workload: Workload, recipe: Recipe, capability: tuple[int, int] | None, steps: int, batch: int) -> Trace:
    try:
        return trace(
            step_of(workload, recipe, batch),
            batch=batch,
            precision=recipe.precision,
            steps=steps,
            capability=capability,
            attention=recipe.attention,
        )
    except FromzeroError:
        raise
    except Exception as error:  # a size the model cannot take fails in the model's own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        shape = "x".join(map(str, workload.input_shape))
        if recipe.blocks != "all":
            raise UsageError("blocks_do_not_fit", model=workload.model, which=recipe.blocks, reason=reason) from error
        raise UsageError("step_failed", model=workload.model, shape=shape, reason=reason) from error


# Fields that change what is done with a trace, not the trace.
_NOT_TRACED = (
    *("batch", "epochs", "schedule", "warmup", "lr", "augmentation", "mix", "patience", "seed", "pretrained"),
    *("init", "class_weights", "sampling", "teacher", "linear_probe", "select"),
)
_DIVIDING = ("offload", "cards", "parallel", "compile")


def _as_traced(recipe: Recipe) -> Recipe:
    """The recipe with what its trace does not depend on at its default, so that traces are shared."""
    defaults = Recipe()
    same = {name: getattr(defaults, name) for name in (*_NOT_TRACED, *_DIVIDING)}
    # Two micro-batches show all there is: gradients that wait for the next ones, and the last that meets them.
    return dataclasses.replace(recipe, **same, accumulate=min(recipe.accumulate, 2))


def _generation(card: Card) -> tuple[int, int] | None:
    """What a trace depends on of a card: none, or the capability whose attention kernels it takes. Cards that take the
    same share their traces."""
    if card.is_cpu:
        return None
    capability = float(card.compute_capability)
    if capability < 8.0:
        return (7, 0)
    if 9.0 <= capability < 12.0:
        return (9, 0)
    return (8, 0) if capability < 8.6 else (8, 6)


# --- the step on meta tensors ---------------------------------------------------------------------------------------


def _check_length(model: Any, workload: Workload) -> None:
    """Refuse a text longer than the model's table of positions: on a card the look-up would fail."""
    from torch import nn

    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if workload.task not in ("text", "lm") or not limit or workload.input_shape[0] <= limit:
        return
    tables = {each.num_embeddings for each in model.modules() if isinstance(each, nn.Embedding)}
    if tables & {limit, limit + 2}:  # OPT's has two rows more; rotary positions have no table
        raise UsageError("seq_too_long", model=workload.model, seq=workload.input_shape[0], limit=limit)


def _set_precision(model: Any, recipe: Recipe) -> None:
    import torch

    if recipe.precision in ("fp16", "bf16"):
        model.to(torch.float16 if recipe.precision == "fp16" else torch.bfloat16)
    if recipe.memory_format == "channels-last":
        model.to(memory_format=torch.channels_last)


def _inputs(workload: Workload, recipe: Recipe, batch: int) -> Any:
    import torch
    from torch.utils import _pytree as pytree

    def placed(each: Any) -> Any:
        if not isinstance(each, torch.Tensor) or not each.is_floating_point():
            return each
        if recipe.precision in ("fp16", "bf16"):
            each = each.to(torch.float16 if recipe.precision == "fp16" else torch.bfloat16)
        if recipe.memory_format == "channels-last" and each.dim() == 4:
            each = each.contiguous(memory_format=torch.channels_last)
        return each

    inputs, targets = _task(workload).example(workload, batch, "meta")
    return pytree.tree_map(placed, inputs), targets


def _task(workload: Workload) -> ModuleType:
    return importlib.import_module(f"fromzero.tasks.{workload.task}")


def _state_tensors(optimizer: Any) -> list[Any]:
    import torch

    states = optimizer.state.values()
    return [each for state in states for each in state.values() if isinstance(each, torch.Tensor)]
