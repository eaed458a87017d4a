"""What flows through the layers: gradients that vanish or explode, units that never fire, weights that start badly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fromzero import tasks
from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts
from fromzero.language import say
from fromzero.models.initialise import EXPLODED, VANISHED, LayerScale

CODES = ("vanishing_gradients", "exploding_gradients", "dead_units", "bad_initialisation")

DEAD = 0.5  # share of a layer's units; a plain network that learns well may lose a third of them
UNITS = 8  # a layer of fewer says nothing by its share
RETRIED = ("he", "orthogonal", "xavier")  # ways to start that are tried, in this order
SPIKED = 100.0  # times the median norm of a run's own gradients
OFTEN = 0.02  # share of the looks that show such a norm


def find(facts: Facts) -> Iterator[Finding]:
    """A network whose ends are out of scale at its start, or after training; the cure is measured before it is named:
    the same look at the same model, started in another way."""
    looks = {"start": facts.start}
    if facts.learned:
        looks["now"] = facts.now
    ratios = {when: _ratios(layers) for when, layers in looks.items() if layers}
    for code, is_out, strongest in (
        ("vanishing_gradients", lambda ratio: ratio < VANISHED, lambda ratio: VANISHED / max(ratio, 1e-12)),
        ("exploding_gradients", lambda ratio: ratio > EXPLODED, lambda ratio: ratio / EXPLODED),
    ):
        found = [
            (when, path, ratio)
            for when, by_layer in ratios.items()
            for path, ratio in by_layer.items()
            if is_out(ratio) and _learns(facts, path)
        ]
        if found:
            yield _out_of_scale(facts, code, found, max(strongest(ratio) for _, _, ratio in found))
        elif code == "exploding_gradients":
            yield from _spikes(facts)
    yield from _dead(facts)
    yield from _started_badly(facts)


def _ratios(layers: Sequence[LayerScale]) -> dict[str, float]:
    """The gradient at each layer's output as a share of that at the last one that has any; layers without one are no
    part of it: residual networks start some of them at zero on purpose."""
    moving = [each for each in layers if each.gradient > 0]
    return {each.path: each.gradient / moving[-1].gradient for each in moving} if moving else {}


def _learns(facts: Facts, path: str) -> bool:
    return any(each.requires_grad for each in facts.model.get_submodule(path).parameters(recurse=False))


def _out_of_scale(facts: Facts, code: str, found: Sequence[tuple[str, str, float]], strength: float) -> Finding:
    """A cure by the way it starts where one was measured, else another network: one with norms and residuals."""
    worst = min(found, key=lambda each: each[2]) if code == "vanishing_gradients" else max(found, key=lambda e: e[2])
    words = {"init": cure} if (cure := _cure(facts)) else _other_model(facts)
    if code == "exploding_gradients" and not facts.recipe.clip:
        words = {**words, "clip": 1.0}
    evidence = {"ratio": worst[2], "layer": worst[1], "when": worst[0], "layers": len({path for _, path, _ in found})}
    where = tuple(dict.fromkeys(path for _, path, _ in found))
    return Finding(code=code, strength=min(strength, 100.0), evidence=evidence, where=where, words=words)


def _spikes(facts: Facts) -> Iterator[Finding]:
    import numpy as np

    norms = facts.steps["gradient_norm"]
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if len(norms) < 20:
        return
    usual = float(np.median(norms))
    spiked = norms > SPIKED * usual
    if spiked.mean() > OFTEN:
        evidence = {"ratio": float(norms.max() / usual), "layer": "", "when": "steps", "layers": 0}
        strength = float(spiked.mean() / OFTEN)
        words = {"clip": 1.0} if not facts.recipe.clip else {"lr": facts.recipe.lr / 3 if facts.recipe.lr else None}
        yield Finding(code="exploding_gradients", strength=strength, evidence=evidence, words=words)


def _dead(facts: Facts) -> Iterator[Finding]:
    """Units behind which no sample lets anything flow back: a ReLU that is closed to all of them."""
    if not facts.learned:
        return
    dead = {each.path: each.dead for each in facts.now if _units(facts, each.path) >= UNITS and each.dead > DEAD}
    if not dead:
        return
    path = max(dead, key=lambda each: dead[each])
    evidence = {"share": dead[path], "layer": path, "layers": len(dead), "units": _units(facts, path)}
    begun = {each.path: each.dead for each in facts.start}
    words: dict[str, Any] = {}
    if begun.get(path, 0.0) > DEAD:  # born dead: another start revives them, and takes biases back to 0
        words = {"init": next((each for each in RETRIED if _alive(_look(facts, each), path)), "he")}
    else:  # killed on the way: by steps that were too large
        assert facts.recipe.lr is not None
        words = {"lr": float(f"{facts.recipe.lr / 10:.2g}"), "init": "he"}
    strength = dead[path] / DEAD
    yield Finding(code="dead_units", strength=strength, evidence=evidence, where=tuple(dead), words=words)


def _alive(layers: Sequence[LayerScale], path: str) -> bool:
    return all(each.dead <= DEAD for each in layers if each.path == path)


def _units(facts: Facts, path: str) -> int:
    layer = facts.model.get_submodule(path)
    return int(getattr(layer, "out_features", 0) or getattr(layer, "out_channels", 0) or 0)


def _started_badly(facts: Facts) -> Iterator[Finding]:
    """The scales at the start are out of bounds, or all units of a layer are the same, and another start mends it."""
    if not facts.from_scratch:
        return
    same = _same(facts)
    if not same and _healthy(facts.start):
        return
    cure = _cure(facts)
    if cure is None:
        return
    first, last = facts.start[0], facts.start[-1]
    evidence = {
        "init": facts.recipe.init,
        "cure": cure,
        "activation": last.activation / first.activation if first.activation else 0.0,
        "gradient": _span(facts.start),
        "same": len(same),
    }
    gradient = max(_span(facts.start), 1e-12)
    strength = max(2.0 * len(same), VANISHED / gradient, gradient / EXPLODED, 1.0)
    yield Finding(
        code="bad_initialisation",
        strength=min(strength, 100.0),
        evidence=evidence,
        where=tuple(same),
        words={"init": cure},
    )


def _same(facts: Facts) -> list[str]:
    """Layers whose units all start with the same weights, and so stay the same for ever. Zeros are left out where the
    layer is normed or added to a residual: many networks start some at zero on purpose."""
    found = []
    for path, each in _beginning(facts).named_modules():
        weight = getattr(each, "weight", None)
        if isinstance(each, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)) and isinstance(weight, torch.Tensor):
            flat = weight.detach().flatten(1)
            if len(flat) >= UNITS and torch.equal(flat, flat[:1].expand_as(flat)):
                found.append(path)
    layers = sum(isinstance(e, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)) for e in _beginning(facts).modules())
    return found if len(found) > layers / 3 else []


def _beginning(facts: Facts) -> torch.nn.Module:
    return facts.once("beginning", facts.beginning)


def _healthy(layers: Sequence[LayerScale]) -> bool:
    """Whether a network passes on from end to end what it is given, forwards and backwards."""
    if not layers:
        return False
    activation = layers[-1].activation / layers[0].activation if layers[0].activation else 0.0
    return VANISHED < activation < EXPLODED and VANISHED < _span(layers) < EXPLODED


def _span(layers: Sequence[LayerScale]) -> float:
    """The gradient at the first layer as a share of that at the last; 0 where nothing comes so far."""
    return layers[0].gradient / layers[-1].gradient if layers and layers[-1].gradient else 0.0


def _cure(facts: Facts) -> str | None:
    """A way to start that brings this network into scale, measured."""
    if not facts.from_scratch:
        return None
    return next((each for each in RETRIED if each != facts.recipe.init and _healthy(_look(facts, each))), None)


def _look(facts: Facts, init: str) -> tuple[LayerScale, ...]:
    return facts.once(("look", init), lambda: facts.scales_of(facts.beginning(init=init)))


def _other_model(facts: Facts) -> dict[str, Any]:
    """The project's own network for such data, which has norms and residuals; nothing if it is that already."""
    usual = tasks.usual_model(facts.manifest.kind, bool(facts.manifest.classes))
    return {} if usual == facts.plan.workload.model else {"model": usual, "init": "default"}


def draw(facts: Facts, finding: Finding) -> bytes:
    layers = facts.now if finding.code == "dead_units" or finding.evidence.get("when") == "now" else facts.start
    names = [each.path for each in layers]
    if finding.code == "dead_units":
        return drawing.bars(say("diagnose.draw.dead"), names, [each.dead for each in layers], marked=finding.where)
    title = say("diagnose.draw.gradients")
    return drawing.bars(title, names, [each.gradient for each in layers], marked=finding.where, logarithmic=True)
