"""What the ways that change a network have in common: a run made from another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fromzero import checkpoint, runs
from fromzero.models.families import pruned
from fromzero.records import Recipe
from fromzero.runs import Run
from fromzero.starting import train, words_of
from fromzero.terminal import Console

_SAME = ("data", "data_digest", "fold", "without", "classes", "device", "versions")
# What the weights hold by now: adapters are merged into them, and what was frozen may move.
_RESET = (
    *("freeze", "freeze_norms", "lora_rank", "dora", "base_quantisation"),
    *("init", "pretrained", "linear_probe", "checkpointing"),
)
MERGED: Mapping[str, Any] = {name: getattr(Recipe(), name) for name in _RESET}


def derived(source: Path, folder: Path, module: Any, structure: Path | None = None, how: Any = None) -> Run:
    """A run in `folder` with another network or other weights than the one at `source`; `structure` says how the
    network was pruned, `how` another way that pictures become inputs. The plan is that of the source: nothing was
    trained."""
    run = Run(source)
    plan, record = run.plan(), run.record()
    recipe = dataclasses.replace(plan.recipe, **MERGED)
    workload = plan.workload
    if structure is not None:  # which says what blocks and head there are
        recipe = dataclasses.replace(recipe, blocks="all", head="linear")
        workload = dataclasses.replace(workload, model=f"{pruned.PREFIX}{structure}")
    if how is not None:
        workload = dataclasses.replace(workload, input_shape=(workload.input_shape[0], how.size, how.size))
    same = {name: record[name] for name in _SAME if name in record}
    made = runs.create(
        folder, "", dataclasses.replace(plan, workload=workload, recipe=recipe), how or run.preprocessing(), **same
    )
    checkpoint.save(made.best, {"model": module.state_dict()}, {})
    made.note(status="finished", derived_from=str(source.resolve()))
    return made


def trained(source: Path, folder: Path, epochs: int, console: Console, **words: Any) -> Run:
    """A run in `folder` that learns what the one at `source` learnt, from its recipe and for `epochs`; `words` of
    `train` go before it."""
    run = Run(source)
    record, plan = run.record(), run.plan()
    on_cpu = record["device"] == "cpu" or not torch.cuda.is_available()
    recipe = {name: value for name, value in words_of(plan).items() if value is not None}
    recipe |= {name: value for name, value in MERGED.items() if name in recipe}
    recipe.pop("teacher", None)
    fold = record.get("fold")
    return train(
        record["data"],
        output=folder,
        device="cpu" if on_cpu else "auto",
        fold=tuple(fold) if fold else None,
        without=record.get("without", ()),
        preprocessing=run.preprocessing(),
        console=console,
        **{**recipe, "epochs": epochs, **words},
    )


def weights(run: Path) -> str:
    """The file of a run's best weights."""
    return str(Run(run).best / "model.safetensors")
