"""Recurrent layers on a card: one cuDNN call, whose hidden memory is counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fromzero.planner import rnn
from fromzero.planner.emulate import cuda_choices
from fromzero.planner.trace import trace

BATCH, STEPS, INPUTS, HIDDEN = 8, 20, 24, 32


class Reader(nn.Module):
    def __init__(self, kind: str, packed: bool = False, **settings):
        super().__init__()
        self.cells = getattr(nn, kind)(INPUTS, HIDDEN, **{"batch_first": True, **settings})
        self.packed = packed

    def forward(self, x):
        if not self.packed:
            return self.cells(x)[0]
        lengths = torch.arange(STEPS, STEPS - x.shape[0], -1)
        out = self.cells(pack_padded_sequence(x, lengths, batch_first=True))[0]
        return out.data


def traced(kind, precision="fp32", learns=True, capability=(8, 6), **settings):
    def build(engine):
        with torch.device("meta"):
            model = Reader(kind, **settings).train(learns)

        def run():
            x = torch.empty((BATCH, STEPS, INPUTS), device="meta")
            with engine.autocast(), torch.set_grad_enabled(learns):
                out = model(x)
                loss = out.float().sum()
            if learns:
                engine.backward(loss)
                model.zero_grad()

        return run, lambda: [("weights", list(model.parameters()))]

    return trace(build, batch=BATCH, precision=precision, steps=1, capability=capability)


def sizes(found):
    return [each.size for each in found.events if each.sign > 0]


# pytorch#2895: 4 layers of 320, inputs of 123, 25,000 rows, fp32
@pytest.mark.parametrize(
    ("mode", "reserve", "workspace"), [("lstm", 736_000_000, 17_730_560), ("gru", 864_000_000, 13_169_920)]
)
def test_sizes_that_pytorch_2895_reports(mode, reserve, workspace):
    shape = rnn.Layers(rnn.MODES.index(mode), inputs=123, hidden=320, layers=4, directions=1, batch=100, tokens=25_000,
                       element=4)  # fmt: skip
    assert (shape.reserve_bytes(), shape.workspace_bytes()) == (reserve, workspace)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.1}])
def test_a_call_is_one_operator_each_way(kind, settings):
    operators = [each.operator for each in traced(kind, **settings).costs]
    assert operators.count("_cudnn_rnn") == operators.count("_cudnn_rnn_backward") == 1
    assert len(operators) < 30  # no cells


def test_the_reserve_is_kept_for_backward_and_only_for_it():
    shape = rnn.Layers(rnn.MODES.index("lstm"), INPUTS, HIDDEN, 1, 1, BATCH, BATCH * STEPS, 4)
    assert shape.reserve_bytes() == 5 * BATCH * STEPS * HIDDEN * 4
    assert shape.reserve_bytes() in sizes(traced("LSTM"))
    assert shape.reserve_bytes() not in sizes(traced("LSTM", learns=False))
    assert shape.workspace_bytes() + BATCH * STEPS * INPUTS * 4 in sizes(traced("LSTM"))  # with the input, time first


def test_two_directions_and_layers_cost_in_proportion():
    one = rnn.Layers(2, INPUTS, HIDDEN, 1, 1, BATCH, BATCH * STEPS, 4)
    two = rnn.Layers(2, INPUTS, HIDDEN, 2, 2, BATCH, BATCH * STEPS, 4)
    assert two.reserve_bytes() == 2 * (2 * one.reserve_bytes() + BATCH * STEPS * HIDDEN * 4)
    assert two.reserve_bytes(dropout=0.1) == two.reserve_bytes() + 2 * BATCH * STEPS * HIDDEN // 8
    assert two.products() == 2 * BATCH * STEPS * 2 * 4 * HIDDEN * (INPUTS + HIDDEN + 2 * HIDDEN + HIDDEN)


def test_gradients_of_the_weights_are_views_of_one_buffer():
    weights = 4 * HIDDEN * (INPUTS + HIDDEN + 2) * 4
    assert sizes(traced("LSTM")).count(weights) == 1


def test_packed_sequences_count_their_tokens():
    tokens = sum(range(STEPS, STEPS - BATCH, -1))
    reserve = rnn.Layers(rnn.MODES.index("gru"), INPUTS, HIDDEN, 1, 1, BATCH, tokens, 4).reserve_bytes()
    found = traced("GRU", packed=True)
    assert reserve in sizes(found)
    assert "_cudnn_rnn" in [each.operator for each in found.costs]


def test_projections_shorten_the_output():
    assert BATCH * STEPS * 8 * 4 in sizes(traced("LSTM", proj_size=8))


@pytest.mark.parametrize("precision", ["amp-fp16", "amp-bf16"])
def test_autocast_runs_the_cells_in_fp16_on_a_flat_copy_of_the_weights(precision):
    found = traced("LSTM", precision)
    assert sizes(found).count(4 * HIDDEN * (INPUTS + HIDDEN + 2) * 2) == 2  # the copy, and its gradient
    assert rnn.Layers(2, INPUTS, HIDDEN, 1, 1, BATCH, BATCH * STEPS, 2).reserve_bytes() in sizes(found)


def test_results_have_the_shapes_of_the_real_layers():
    for kind in ("LSTM", "GRU", "RNN"):
        for settings in ({}, {"batch_first": False}, {"num_layers": 2, "bidirectional": True}):
            settings = {"batch_first": True, **settings}
            real = getattr(nn, kind)(INPUTS, HIDDEN, **settings)
            out, hidden = real(torch.zeros(4, 6, INPUTS))
            with cuda_choices((8, 6)):
                fake_out, fake_hidden = real.to("meta")(torch.empty(4, 6, INPUTS, device="meta"))
            assert fake_out.shape == out.shape
            for a, b in zip(*((h if kind == "LSTM" else (h,)) for h in (hidden, fake_hidden)), strict=True):
                assert a.shape == b.shape
