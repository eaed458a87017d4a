"""The optimizers of a recipe: groups, rates by depth, L1."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fromzero.engine import packed, start, unpack
from fromzero.models.transformer import Transformer
from fromzero.records import OPTIMIZERS, Recipe
from fromzero.step import make_optimizer, training_step

TOKENS = torch.randint(1, 100, (8, 16), generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(8) % 3


def step(model, optimizer):
    recipe = Recipe(clip=0.0)
    engine = start(recipe, "cpu")
    return training_step(engine, model, cross_entropy, optimizer, [(TOKENS, CLASSES)], recipe)


def made(**words):
    torch.manual_seed(0)
    return Transformer(3, vocabulary=100, width=64, layers=2).eval(), Recipe(**words)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_resumes_to_the_bit(name):
    model, recipe = made(optimizer=name)
    optimizer = make_optimizer(model, recipe)
    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < losses[0]
    other = copy.deepcopy(model)
    second = make_optimizer(other, recipe)
    kept = packed(optimizer, model)
    unpack(second, other, {key: each.clone() for key, each in kept.items()})
    step(model, optimizer)
    step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_without_layer_decay_there_are_two_groups_and_no_scale():
    model, recipe = made()
    groups = make_optimizer(model, recipe).param_groups
    assert [group["weight_decay"] for group in groups] == [recipe.weight_decay, 0.0]
    assert not any("lr_scale" in group for group in groups)


def test_rates_fall_from_the_head_down():
    model, recipe = made(layer_decay=0.5, lr=1.0)
    scale = {
        id(each): group["lr_scale"] for group in make_optimizer(model, recipe).param_groups for each in group["params"]
    }
    assert scale[id(model.head.weight)] == scale[id(model.norm.weight)] == 1.0
    assert scale[id(model.blocks[1].qkv.weight)] == 0.5
    assert scale[id(model.blocks[0].qkv.weight)] == scale[id(model.blocks[0].norm1.bias)] == 0.25
    assert scale[id(model.embedding.weight)] == 0.125


def test_l1_makes_what_nothing_holds_exactly_zero():
    torch.manual_seed(0)
    inputs = torch.randn(256, 20)
    targets = (inputs[:, 0] > 0).long()  # nineteen inputs tell nothing
    shares = {}
    for l1 in (0.0, 0.05):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 2))
        recipe = Recipe(optimizer="sgd", lr=0.1, l1=l1, weight_decay=0.0, clip=0.0)
        optimizer, engine = make_optimizer(model, recipe), start(recipe, "cpu")
        for _ in range(300):
            training_step(engine, model, cross_entropy, optimizer, [(inputs, targets)], recipe)
        shares[l1] = float((model[0].weight == 0).float().mean())
        assert float((model(inputs).argmax(1) == targets).float().mean()) > 0.95
    assert shares[0.0] == 0.0
    assert shares[0.05] > 0.8


def test_l1_moves_a_weight_by_rate_times_l1_and_leaves_biases_alone():
    model = nn.Linear(3, 3)
    nn.init.constant_(model.weight, 1.0)
    recipe = Recipe(optimizer="sgd", lr=0.1, l1=0.5, weight_decay=0.0, clip=0.0)
    optimizer, bias = make_optimizer(model, recipe), model.bias.detach().clone()
    batch = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    training_step(start(recipe, "cpu"), model, lambda out, _: out.sum() * 0, optimizer, [batch], recipe)
    torch.testing.assert_close(model.weight.detach(), torch.full((3, 3), 0.95))
    assert torch.equal(model.bias, bias)
