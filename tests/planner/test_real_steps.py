"""The trace against the truth: what PyTorch really allocates for the same step on this machine's CPU."""

from __future__ import annotations

import contextlib
import importlib

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fromzero.models.build import build, task_of
from fromzero.planner.trace import trace
from fromzero.records import Recipe, Workload
from fromzero.step import make_optimizer, training_step
from fromzero.tracing import step_of


class Engine:
    """A CPU in fp32 needs no help."""

    def autocast(self):
        return contextlib.nullcontext()

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, parameters, norm):
        return torch.nn.utils.clip_grad_norm_(parameters, norm)


def measured_peak(workload: Workload, recipe: Recipe, batch: int) -> int:
    """The most bytes PyTorch's CPU allocator had out at once in three steps, weights and batch included."""
    torch.manual_seed(0)
    task = importlib.import_module(f"fromzero.tasks.{workload.task}")
    model = build(workload.model, workload.classes, *(*workload.input_shape, 0)[:2]).train()
    optimizer = make_optimizer(model, recipe)
    loss = task.loss_for(recipe)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for _ in range(3):
            batches = [task.example(workload, batch, "cpu")]
            training_step(Engine(), model, loss, optimizer, batches, recipe)
            del batches
    now = most = 0
    events = [each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"]
    for each in sorted(events, key=lambda event: event.start_ns()):
        now += each.nbytes()
        most = max(most, now)
    static = {id(each): each.untyped_storage().nbytes() for each in [*model.parameters(), *model.buffers()]}
    return most + sum(static.values())


# Within 0.3 %, most within 0.01 %: what oneDNN takes beside the tensors is counted too.
@pytest.mark.parametrize(
    ("model", "shape", "batch"),
    [
        ("cnn", (1, 28, 28), 128),
        ("cnn", (3, 64, 64), 32),
        ("resnet18", (3, 64, 64), 16),
        ("torchvision:mobilenet_v2", (3, 64, 64), 16),
        ("vit_tiny_patch16_224", (3, 64, 64), 8),
        ("rnn", (64,), 16),
        ("rnn-gru", (64,), 16),
        ("rnn-plain", (64,), 16),
        ("rnn-wide", (64,), 16),
        ("transformer", (64,), 16),
        ("gpt", (32,), 8),
    ],
)
def test_traced_peak_is_close_to_a_real_step(model, shape, batch):
    workload = Workload(task=task_of(model), model=model, input_shape=shape, classes=10)
    recipe = Recipe(lr=1e-3)
    predicted = trace(step_of(workload, recipe, batch), batch=batch, capability=None).live_peak()
    assert predicted == pytest.approx(measured_peak(workload, recipe, batch), rel=0.01)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    "settings", [{"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "dropout": 0.1, "bias": False}, {}]
)
def test_recurrent_layers_of_every_shape_are_close(kind, settings, monkeypatch):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 48)
            self.cells = getattr(nn, kind)(48, 40, batch_first=True, **settings)
            self.head = nn.Linear(80 if "bidirectional" in settings else 40, 4)

        def forward(self, tokens):
            return self.head(self.cells(self.embedding(tokens))[0].mean(1))

    def made(name, classes, channels, size):
        return Reader()

    monkeypatch.setattr("fromzero.models.families.own.build", made)
    workload = Workload(task="text", model="rnn", input_shape=(20,), classes=4)
    recipe = Recipe(lr=1e-3)
    predicted = trace(step_of(workload, recipe, 64), batch=64, capability=None).live_peak()
    assert predicted == pytest.approx(measured_peak(workload, recipe, 64), rel=0.01)
