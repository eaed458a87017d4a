"""The tracer: what it counts is what a real step allocates, on a CPU build and without a card."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fromzero.planner.search import between
from fromzero.planner.trace import trace
from fromzero.records import Recipe
from fromzero.step import make_optimizer, training_step


def step_of(make, inputs, recipe):
    """A step of `make()` on inputs of shape (batch, *inputs) and two classes."""

    def build(engine):
        with torch.device("meta"):
            model = make()
        optimizer = make_optimizer(model, recipe)
        wrapped = engine.prepare_optimizer(optimizer)

        def run():
            batches = [(torch.empty(inputs, device="meta"), torch.zeros(inputs[0], dtype=torch.long, device="meta"))]
            return training_step(
                engine, model, lambda o, t: functional.cross_entropy(o.float(), t), wrapped, batches, recipe
            )

        def owned():
            yield "weights", [*model.parameters(), *model.buffers()]
            yield "gradients", [each.grad for each in model.parameters() if each.grad is not None]
            yield "optimizer", [t for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]

        return run, owned

    return build


def linear():
    return nn.Linear(1000, 500, bias=False)


def traced(make=linear, inputs=(4, 1000), precision="fp32", capability=(8, 6), **recipe):
    recipe = Recipe(**{"clip": 0.0, "optimizer": "sgd", "weight_decay": 0.0, "lr": 0.1, **recipe})
    build = step_of(make, inputs, recipe)
    return trace(build, batch=inputs[0], precision=precision, capability=capability)


def bytes_of(found, part):
    live, most = 0, 0
    for event in found.events:
        if found.parts[event.block] == part:
            live += event.sign * event.size
            most = max(most, live)
    return most


def test_parts_of_a_step_that_can_be_counted_by_hand():
    found = traced(optimizer="adamw")
    weights = 1000 * 500 * 4
    assert bytes_of(found, "weights") == weights
    assert bytes_of(found, "gradients") == weights
    assert 2 * weights <= bytes_of(found, "optimizer") <= 2 * weights + 64  # two moments and a step counter


def test_plain_sgd_keeps_no_state_and_momentum_one_copy():
    weights = 1000 * 500 * 4
    assert bytes_of(traced(), "optimizer") == 0
    assert bytes_of(traced(optimizer="sgd-momentum"), "optimizer") == weights


def test_what_is_taken_is_given_back_but_for_what_lives_on():
    found = traced(optimizer="adamw")
    live = {}
    for event in found.events:
        if event.sign > 0:
            live[event.block] = event.size
        else:
            del live[event.block]
    assert {found.parts[block] for block in live} <= {"weights", "optimizer"}


def test_the_peak_moves_when_the_optimizer_has_state():
    recipe = Recipe(clip=0.0, optimizer="sgd-momentum", lr=0.1)
    build = step_of(convolutional, (256, 3, 8, 8), recipe)
    once = trace(build, batch=256, steps=1).live_peak()
    assert trace(build, batch=256, steps=2).live_peak() == once + (16 * 27 + 3 * 16 + 2 * 16 * 64 + 2) * 4


def test_flops_of_forward_and_both_gradients():
    found = traced(lambda: nn.Sequential(nn.Linear(64, 32, bias=False), nn.Linear(32, 2, bias=False)), (8, 64))
    products = 2 * 8 * (64 * 32 + 32 * 2)
    by_phase = {}
    for each in found.costs:
        by_phase[each.phase] = by_phase.get(each.phase, 0) + each.flops
    assert by_phase["forward"] == products
    assert by_phase["backward"] == 2 * products - 2 * 8 * 64 * 32  # no gradient for the pictures themselves


def test_convolution_flops_and_kinds():
    def make():
        return nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip

    found = traced(make, (2, 4, 16, 16))
    kinds = {each.kind: each.flops for each in found.costs if each.operator == "convolution"}
    assert kinds == {"stem": 2 * 2 * 256 * 8 * 4 * 9, "depthwise": 2 * 2 * 256 * 8 * 9}


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Dropout(0.1), nn.Flatten(), nn.Linear(16 * 64, 2),
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["amp-fp16", "amp-bf16"])
def test_autocast_runs_products_in_half_and_the_loss_in_full(precision):
    found = traced(convolutional, (4, 3, 8, 8), precision)
    lower = {"amp-fp16": "float16", "amp-bf16": "bfloat16"}[precision]
    kinds = {each.operator: each.dtype for each in found.costs}
    assert kinds["convolution"] == lower and kinds["addmm"] == lower
    assert kinds["_log_softmax"] == "float32"
    assert found.live_peak() < traced(convolutional, (4, 3, 8, 8)).live_peak() * 1.2


def test_dropout_keeps_a_byte_an_element_on_a_card():
    on_card = traced(convolutional, (64, 3, 8, 8))
    assert any(event.size == 64 * 16 * 64 for event in on_card.events)  # bool mask
    operators = {each.operator for each in on_card.costs}
    assert "native_dropout" in operators and "cudnn_batch_norm" in operators


def test_a_cpu_takes_its_own_decomposition():
    on_cpu = traced(convolutional, (64, 3, 8, 8), capability=None)
    assert "cudnn_batch_norm" not in {each.operator for each in on_cpu.costs}


def test_emulation_is_gone_after_the_trace():
    traced(convolutional, (4, 3, 8, 8), "amp-fp16")
    with torch.device("meta"):
        out = nn.functional.batch_norm(torch.empty(2, 4, 8, 8), torch.empty(4), torch.empty(4), training=True)
    assert out.shape == (2, 4, 8, 8)
    x = torch.randn(8, 4)
    assert nn.functional.dropout(x, 0.5).shape == x.shape


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        return self.head(self.inner(x).mean(1))


@pytest.mark.parametrize(
    ("precision", "capability", "expected"),
    [
        ("amp-fp16", (8, 6), "_scaled_dot_product_flash_attention"),
        ("amp-fp16", (7, 5), "_scaled_dot_product_efficient_attention"),
        ("fp32", (8, 6), "_scaled_dot_product_efficient_attention"),
    ],
)
def test_attention_backend_follows_the_card(precision, capability, expected):
    found = traced(Attention, (4, 32, 64), precision, capability)
    assert expected in {each.operator for each in found.costs}


@pytest.mark.parametrize("precision", ["fp32", "amp-fp16"])
def test_between_two_batches_lies_every_other(precision):
    small, large, third = (traced(convolutional, (n, 3, 8, 8), precision) for n in (8, 16, 40))
    guessed = between(small, large, 40)
    assert guessed is not None
    assert guessed.live_peak() == third.live_peak()
    assert sum(each.flops for each in guessed.costs) == sum(each.flops for each in third.costs)


def test_between_refuses_traces_of_different_operators():
    assert between(traced(linear), traced(convolutional, (8, 3, 8, 8)), 16) is None


def test_accumulating_gradients_keeps_the_peak_of_one_micro_batch():
    recipe = Recipe(clip=0.0, optimizer="sgd", lr=0.1, accumulate=2)

    def build(engine):
        run_one, owned = step_of(convolutional, (32, 3, 8, 8), recipe)(engine)
        return run_one, owned

    assert trace(build, batch=32).live_peak() == traced(convolutional, (32, 3, 8, 8)).live_peak()


def test_zero_grad_at_the_start_keeps_gradients_between_steps():
    late = traced(convolutional, (2, 3, 8, 8), zero_grad="before-backward").live_peak()
    assert late >= traced(convolutional, (2, 3, 8, 8), zero_grad="after-step").live_peak()
