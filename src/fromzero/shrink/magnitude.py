"""Magnitude pruning: the smallest weights of the whole network become 0 (Han et al. 2015), the setting is their share.
Dense kernels multiply zeros as they multiply numbers: nothing becomes faster, and the file becomes smaller only where
it is compressed."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.nn.utils import prune

from fromzero.models.layers import heads
from fromzero.runtimes.torch_runtime import open_module
from fromzero.shrink import NothingToGain, Source
from fromzero.shrink._runs import derived
from fromzero.terminal import Console

CHANGES = "run"
TRAINS = False
SETTINGS = ("0.5",)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def make(source: Source, setting: str, folder: Path, console: Console) -> None:
    module = open_module(source.run)
    last = {id(part) for each in heads(module) for part in each.modules()}
    layers = [each for each in module.modules() if isinstance(each, _LAYERS) and id(each) not in last]
    if not layers:
        raise NothingToGain("nothing_to_prune")
    prune.global_unstructured(
        [(each, "weight") for each in layers], pruning_method=prune.L1Unstructured, amount=float(setting)
    )
    for each in layers:
        prune.remove(each, "weight")
    derived(source.run, folder, module)
