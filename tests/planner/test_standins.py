"""The stand-ins hold what bitsandbytes' real objects hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fromzero.planner.standins import AdamW8bit, Nf4Linear

bitsandbytes = pytest.importorskip("bitsandbytes")


def stepped(make, shapes, device):
    parameters = [nn.Parameter(torch.ones(shape, device=device)) for shape in shapes]
    optimizer = make(parameters)
    for each in parameters:
        each.grad = torch.ones_like(each)
    optimizer.step()
    return parameters, optimizer


def test_the_eight_bit_state_has_the_size_of_the_real_one():
    shapes = [(64, 64), (100, 100), (10,), (4096,)]
    parameters, real = stepped(bitsandbytes.optim.AdamW8bit, shapes, "cpu")
    expected = [
        {name: (v.numel(), v.dtype) for name, v in real.state[p].items() if isinstance(v, torch.Tensor)}
        for p in parameters
    ]
    parameters, ours = stepped(AdamW8bit, shapes, "meta")
    for parameter, wanted in zip(parameters, expected, strict=True):
        maps = {name: wanted.pop(name) for name in ("qmap1", "qmap2") if name in wanted}
        state = {name: (v.numel(), v.dtype) for name, v in ours.state[parameter].items()}
        assert state == wanted
        assert all(count == 256 for count, _ in maps.values())


def test_a_four_bit_layer_has_the_size_of_the_real_one():
    real = bitsandbytes.nn.Linear4bit(256, 512, bias=False, quant_type="nf4", compress_statistics=True).to("cpu")
    state = real.weight.quant_state
    scales = [state.absmax, state.state2.absmax]
    ours = Nf4Linear(nn.Linear(256, 512, bias=False, device="meta"), 256, 512)
    assert ours.weight.shape == real.weight.shape and ours.weight.dtype == real.weight.dtype
    assert [each.numel() for each in (ours.absmax, ours.nested_absmax)] == [each.numel() for each in scales]
    assert [each.dtype for each in (ours.absmax, ours.nested_absmax)] == [each.dtype for each in scales]


def test_a_four_bit_layer_gives_gradients_to_its_input_only():
    layer = Nf4Linear(nn.Linear(64, 32, device="meta"), 64, 32)
    layer.bias.requires_grad_(False)
    inputs = torch.empty((3, 64), device="meta", requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad.shape == (3, 64)
    assert layer.weight.grad is None
