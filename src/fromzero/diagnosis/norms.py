"""Batch norm in batches that are too small to tell a mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts
from fromzero.language import say

CODES = ("tiny_batch_norm",)

TINY = 8  # samples a norm sees; with so few the error of a variance is two in three and more (Wu & He 2018, figure 1)
NOISE = 0.35  # spread of the batches' means, in standard deviations of the channel: 1/sqrt(8), where samples are alone
ENOUGH = 32
TRIED = 12  # batches that are looked at


def find(facts: Facts) -> Iterator[Finding]:
    recipe = facts.recipe
    assert recipe.batch is not None
    norms = _norms(facts)
    learning = [each for each in norms.values() if each.weight is None or each.weight.requires_grad]
    if not learning or recipe.batch > TINY or not facts.learned:
        return
    noise = _noise(facts)
    worst = max(noise, key=lambda path: noise[path], default="")
    if not worst or noise[worst] < NOISE:
        return
    enough = min(ENOUGH, max(recipe.batch, len(facts.manifest.rows("train")) // 8))
    longer = (
        {} if recipe.accumulate > 1 else {"epochs": recipe.epochs * max(1, round(math.sqrt(enough / recipe.batch)))}
    )
    words = {"batch": enough, "accumulate": max(1, recipe.batch * recipe.accumulate // enough), **longer}
    evidence = {"batch": recipe.batch, "noise": noise[worst], "layer": worst, "layers": len(norms)}
    where = tuple(path for path, each in noise.items() if each >= NOISE)
    strength = noise[worst] / NOISE
    yield Finding(code="tiny_batch_norm", strength=strength, evidence=evidence, where=where, words=words)


def _norms(facts: Facts) -> dict[str, Any]:
    return {p: e for p, e in facts.model.named_modules() if isinstance(e, nn.modules.batchnorm._BatchNorm)}


def _noise(facts: Facts) -> dict[str, float]:
    return facts.once("noise of norms", lambda: _measured(facts, _norms(facts)))


def _measured(facts: Facts, norms: dict[str, Any]) -> dict[str, float]:
    """By layer, in batches as they are in training: how far the means of one channel lie apart, in its own standard
    deviations; the median over the channels."""
    batch = facts.recipe.batch
    assert batch is not None
    means: dict[str, list[torch.Tensor]] = {path: [] for path in norms}

    def note(path: str) -> Any:
        def look(_: nn.Module, given: Any) -> None:
            means[path].append(given[0].detach().float().transpose(0, 1).flatten(1).mean(1))

        return look

    hooks = [each.register_forward_pre_hook(note(path)) for path, each in norms.items()]
    try:
        rows = facts.some("train", TRIED * batch)
        rows = torch.from_numpy(rows)[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))].numpy()
        with torch.no_grad():
            for start in range(0, len(rows) - batch + 1, batch):
                facts.model(facts.batch(rows[start : start + batch])[0])
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for path, each in means.items():
        if len(each) > 2:
            spread = norms[path].running_var.float().sqrt() + 1e-6
            found[path] = float((torch.stack(each).std(0) / spread).median())
    return found


def draw(facts: Facts, finding: Finding) -> bytes:
    noise = _noise(facts)
    return drawing.bars(say("diagnose.draw.noise"), list(noise), list(noise.values()), marked=finding.where)
