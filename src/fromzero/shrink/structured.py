"""Structured pruning: whole channels go, with everything that hangs on them (torch-pruning's dependency graph, Fang et
al. 2023), so that what is left is a smaller dense network. The setting is the share of channels that go, in every layer
alike; those whose weights are smallest over the whole group go first. A network that was cut must learn again:
`recovered` or `distilled` come next."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from fromzero.files import write_text
from fromzero.models.families import pruned
from fromzero.models.layers import heads
from fromzero.runs import Run
from fromzero.runtimes.torch_runtime import open_module
from fromzero.shrink import NothingToGain, Source
from fromzero.shrink._runs import derived
from fromzero.terminal import Console

CHANGES = "run"
TRAINS = False
SETTINGS = ("0.25", "0.5", "0.7")
History = list[tuple[str, bool, list[int]]]
ROUND_TO = 8  # channels are kept in multiples of what kernels work on at once


def make(source: Source, setting: str, folder: Path, console: Console) -> None:
    run = Run(source.run)
    module, workload = open_module(source.run), run.plan().workload
    channels, size = (*workload.input_shape, 0)[:2]
    shown = pruned.example(workload.task, channels, size, len(workload.categories))
    module, history = cut(module, shown, float(setting))
    described = _described(run, history)
    structure = folder.with_name(f"{re.sub(r'.*[/:]', '', described['model'])}-pruned.json")
    write_text(structure, json.dumps(described) + "\n")
    try:
        derived(source.run, folder, module, structure)
    finally:
        structure.unlink()  # the run keeps its own copy


def cut(module: Any, shown: Any, ratio: float) -> tuple[Any, History]:
    """A copy of a network without `ratio` of its channels, in eval mode; what was taken, in its order. Where the
    forward pass counts on the widths of attention, only the hidden layers behind it are thinned out."""
    failed: Exception | None = None
    for thin in (_everywhere, _hidden):
        # What hangs on what is read from the graph of the gradients, in which frozen layers are missing.
        smaller = copy.deepcopy(module).eval().requires_grad_(True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                history = thin(smaller, shown, ratio)
                smaller(shown)
        except Exception as error:  # each network that takes no other widths fails in its own way
            failed = error
            continue
        if history:
            return smaller, [(layer, bool(out), [int(each) for each in numbers]) for layer, out, numbers in history]
    raise NothingToGain("not_prunable" if failed else "nothing_to_prune") from failed


def _everywhere(module: Any, shown: Any, ratio: float) -> History:
    library = pruned.pruning()
    pruner = library.pruner.BasePruner(
        module,
        shown,
        importance=library.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=heads(module),
        round_to=ROUND_TO,
    )
    pruner.step()
    return pruner.pruning_history()


def _hidden(module: Any, shown: Any, ratio: float) -> History:
    """Of two linear layers in a row that widen and narrow again, as every transformer block has them, what is between
    them: nothing else knows how wide that is."""
    library = pruned.pruning()
    graph = library.DependencyGraph().build_dependency(module, example_inputs=shown)
    importance = library.importance.GroupMagnitudeImportance(p=2)
    plain = {library.ops.OPTYPE[each] for each in ("LINEAR", "ELEMENTWISE", "RESHAPE")}
    for group in list(graph.get_all_groups(ignored_layers=heads(module), root_module_types=[nn.Linear])):
        first = group[0].dep.target.module
        layers = {id(dep.target.module) for dep, _ in group if isinstance(dep.target.module, nn.Linear)}
        if not {dep.target.type for dep, _ in group} <= plain:  # queries, keys and values are split
            continue
        if len(layers) == 2 and first.out_features > first.in_features:
            kept = max(ROUND_TO, round(first.out_features * (1 - ratio) / ROUND_TO) * ROUND_TO)
            least = importance(group).argsort()[: first.out_features - kept].tolist()
            graph.get_pruning_group(first, library.prune_linear_out_channels, least).prune()
    return graph.pruning_history()


def _described(run: Run, history: History) -> dict[str, Any]:
    """The file of the family `pruned`. What was pruned before is pruned further: one history after the other."""
    plan = run.plan()
    if pruned.takes(plan.workload.model):
        before = pruned.read(plan.workload.model)
        return {**vars(before), "history": [*before.history, *history]}
    return {
        "model": plan.workload.model,
        "blocks": plan.recipe.blocks,
        "head": plan.recipe.head,
        "history": history,
    }
