"""How weights start, and whether the start is sound: He for ReLU, Xavier for tanh, as their papers say."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fromzero.models.cnn import Cnn
from fromzero.models.initialise import initialise, scales, sentences
from fromzero.models.rnn import Rnn
from fromzero.models.transformer import Gpt, Transformer
from fromzero.records import INITS, Recipe

INPUTS, TARGETS = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10


def deep(activation, init, layers=20, width=128):
    torch.manual_seed(0)
    inner = [part for _ in range(layers) for part in (nn.Linear(width, width), activation())]
    model = nn.Sequential(nn.Linear(64, width), *inner, nn.Linear(width, 10))
    initialise(model, Recipe(init=init))
    return model


def found(model, inputs=INPUTS, targets=TARGETS):
    return scales(model, inputs, targets, cross_entropy)


@pytest.mark.parametrize(
    ("activation", "init", "findings"),
    [
        (nn.ReLU, "he", ()),
        (nn.Tanh, "xavier", ()),
        (nn.Tanh, "orthogonal", ()),
        (nn.ReLU, "gaussian", ("activations_vanish", "gradients_vanish")),
        (nn.Tanh, "uniform", ("activations_vanish", "gradients_vanish")),
        (nn.Sigmoid, "xavier", ("gradients_vanish",)),
    ],
)
def test_twenty_plain_layers(activation, init, findings):
    assert found(deep(activation, init)).findings == findings


def test_weights_too_large_explode():
    model = deep(nn.ReLU, "he")
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(3)
    assert found(model).findings == ("activations_explode", "gradients_explode")


def test_dead_units_are_found_and_named():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    nn.init.constant_(model[0].bias, -1000.0)
    seen = found(model)
    assert "dead" in seen.findings
    assert any("100% of the outputs of 0 " in each for each in sentences(seen))


def test_what_is_no_number_is_said():
    assert found(deep(nn.ReLU, "he"), torch.full((16, 64), math.inf)).findings == ("not_finite",)


@pytest.mark.parametrize("init", INITS)
def test_our_own_networks_start_soundly_whatever_the_start(init):
    tokens = torch.randint(1, 200, (8, 32), generator=torch.Generator().manual_seed(0))
    for model, inputs in (
        (Cnn(10), torch.randn(8, 3, 32, 32)),
        (Rnn(10, vocabulary=200), tokens),
        (Transformer(10, vocabulary=200), tokens),
    ):
        initialise(model, Recipe(init=init))
        assert found(model, inputs, TARGETS[:8]).findings == (), type(model)


def test_networks_that_start_at_zero_on_purpose_are_no_finding():
    for name in ("resnet18", "mixer_s32_224"):
        model = timm.create_model(name, num_classes=10)
        assert found(model, torch.randn(2, 3, 224, 224), TARGETS[:2]).findings == ()


def test_looking_changes_nothing():
    model = Cnn(10)
    state, mode = copy.deepcopy(model.state_dict()), model.training
    random = torch.get_rng_state()
    found(model.eval(), torch.randn(4, 3, 16, 16, generator=torch.Generator()), TARGETS[:4])
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    assert not model.training and mode
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_the_distributions_are_those_that_were_asked_for():
    def weight(init):
        torch.manual_seed(0)
        layer = nn.Linear(400, 300)
        initialise(layer, Recipe(init=init))
        assert not layer.bias.any()
        return layer.weight.detach()

    assert float(weight("gaussian").std()) == pytest.approx(0.02, rel=0.02)
    assert float(weight("uniform").abs().max()) == pytest.approx(0.05, rel=0.02)
    assert float(weight("xavier").var()) == pytest.approx(2 / 700, rel=0.02)
    assert float(weight("he").var()) == pytest.approx(2 / 400, rel=0.02)
    torch.testing.assert_close(weight("orthogonal") @ weight("orthogonal").T, torch.eye(300), atol=1e-5, rtol=0)


def test_norms_embeddings_and_what_shares_them_are_left_alone():
    model = Gpt(vocabulary=50, width=16, layers=1)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    initialise(model, Recipe(init="he"))
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert "embedding.weight" not in changed and "head.weight" not in changed
    assert not any("norm" in name for name in changed)
    assert "blocks.0.qkv.weight" in changed


def test_each_gate_of_a_recurrent_layer_is_orthogonal_for_itself():
    cells = nn.LSTM(8, 8)
    initialise(cells, Recipe(init="orthogonal"))
    for gate in cells.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)


def test_default_is_what_the_author_chose():
    torch.manual_seed(0)
    one = Cnn(3)
    torch.manual_seed(0)
    other = Cnn(3)
    initialise(other, Recipe())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
