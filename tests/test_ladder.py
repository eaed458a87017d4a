"""Out of memory: told from other errors, and the same step again in less."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fromzero import ladder
from fromzero.records import Recipe
from fromzero.runs import Run


def failure(work):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        work()
    return caught.value


def test_failed_allocations_of_torch_and_numpy_are_told_from_other_errors():
    assert ladder.out_of_memory(failure(lambda: torch.empty(1 << 55)))
    assert ladder.out_of_memory(failure(lambda: np.empty(1 << 55)))
    assert not ladder.out_of_memory(failure(lambda: torch.ones(2, 3) @ torch.ones(2, 3)))
    assert not ladder.out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "text",
    [  # as they stand in PyTorch's libraries
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory",
        "C10 Out of Memory. Trying to allocate 8 bytes",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)",
        "[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "std::bad_alloc",
    ],
)
def test_what_pytorch_says_when_memory_runs_out(text):
    assert ladder.out_of_memory(RuntimeError(text))


def test_a_reason_is_one_line_even_where_the_error_says_nothing():
    assert ladder.reason(MemoryError()) == "MemoryError"
    assert ladder.reason(RuntimeError("a\nb")) == "a"


def test_rungs_keep_the_batch():
    plain = nn.Linear(2, 2)
    assert [each.parts for each in ladder.rungs(plain, Recipe(batch=12))] == [1, 2, 3, 4, 6, 12]
    assert not any(each.checkpointing for each in ladder.rungs(plain, Recipe(batch=12)))
    batches = [(torch.arange(12.0)[:, None], torch.arange(12)), (torch.arange(12.0)[:, None] + 12, torch.arange(12))]
    for rung in ladder.rungs(plain, Recipe(batch=12)):
        cut = ladder.divided(batches, rung.parts)
        assert len(cut) == 2 * rung.parts and {len(inputs) for inputs, _ in cut} == {12 // rung.parts}
        assert torch.equal(torch.cat([inputs for inputs, _ in cut])[:, 0], torch.arange(24.0))


def test_an_optimizer_that_fails_within_its_step_has_begun_although_no_weight_moved(monkeypatch):
    """Adam moves its moments before it takes the memory for its denominator."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    begun = ladder.Begun(optimizer)
    model(torch.ones(2, 4)).sum().backward()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    versions = [each._version for each in model.parameters()]
    monkeypatch.setattr(torch, "_foreach_sqrt", full)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.step()
    assert [each._version for each in model.parameters()] == versions
    assert optimizer.state[model.weight]["exp_avg"].abs().sum() > 0
    assert begun.count == 1


def test_a_scaler_of_gradients_takes_the_step_again():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    ladder.reset(scaler, torch.device("cpu"))  # before it has seen a loss
    ladder.reset(None, torch.device("cpu"))
    scaler.scale(model(torch.ones(2, 4)).sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError):
        scaler.unscale_(optimizer)
    ladder.reset(scaler, torch.device("cpu"))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 8.0


# --- in a run -----------------------------------------------------------------------------------------------------

WORDS = {"model": "mlp", "batch": 8, "epochs": 3, "device": "cpu", "seed": 3, "dropout": 0.0}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    values = rng.normal(size=(120, 3))
    lines = [f"{a:.3f},{b:.3f},{c:.3f},{('no', 'yes')[int(a + b > c)]}" for a, b, c in values]
    path.write_text("\n".join(["a,b,c,label", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    from fromzero.starting import train

    return train(rows, output=tmp_path_factory.mktemp("runs") / "whole", **WORDS)


def weights(run):
    from fromzero import checkpoint

    return checkpoint.load(run.last, "model")[0]["model"]


def losses(run):
    with run.metrics.open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def failing(monkeypatch, name, at):
    """The function `torch.<name>` finds no memory at its call number `at`; how often it was called."""
    real, calls = getattr(torch, name), []

    def sometimes(*args, **kwargs):
        first = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
        if first.is_meta:  # the plan's
            return real(*args, **kwargs)
        calls.append(name)
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, name, sometimes)
    return calls


@pytest.mark.parametrize("save_seconds", [0.0, 60.0])
def test_memory_that_runs_out_while_weights_change_sends_the_run_to_its_last_checkpoint(
    rows, whole, tmp_path, monkeypatch, save_seconds, capsys
):
    """With a checkpoint of the step before, and with none at all."""
    from fromzero import starting, training
    from fromzero.terminal import Terminal

    monkeypatch.setattr(training, "SAVE_SECONDS", save_seconds)
    calls = failing(monkeypatch, "_foreach_sqrt", at=7)
    # The fused optimizer takes nothing that could fail in its middle; the others do.
    run = starting.train(rows, output=tmp_path / "run", console=Terminal(), **{**WORDS, "fused": False})
    record = run.record()
    assert record["rung"] == 1 and record["status"] == "finished"
    assert "changed the weights" in capsys.readouterr().err
    assert len(calls) > 7
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)
    ours, theirs = weights(run), weights(whole)
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4) for name in theirs)


def test_a_validation_that_does_not_fit_is_measured_in_halves(rows, whole, tmp_path, monkeypatch):
    from fromzero.starting import train
    from fromzero.tasks import table

    real, sizes = table.answers, []

    def small(outputs, targets=None):
        sizes.append(len(outputs))
        if len(outputs) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(outputs, targets)

    monkeypatch.setattr(table, "answers", small)
    run = train(rows, output=tmp_path / "run", **WORDS)
    assert max(sizes) > 5 and losses(run) == pytest.approx(losses(whole), rel=1e-5)
    assert "rung" not in run.record()


# What a process of its own does to itself: less address space than the planned batch takes, from a step on.
_SQUEEZED = """
import resource, sys
import torch
from fromzero import starting, training
from fromzero.cli import main

step, count = training._step, [0]

def squeezed(job, parts):
    count[0] += 1
    if count[0] != {step}:
        return step(job, parts)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + {spare} * 2**20, resource.RLIM_INFINITY))
    try:
        return step(job, parts)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

training._step = squeezed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
@pytest.mark.parametrize("step", [1, 2])  # one an epoch
def test_a_real_allocation_that_fails_is_made_smaller(tmp_path, step):
    """In the first step and in a later epoch: the step is not lost, and the losses are those of an undisturbed run."""
    rng = np.random.default_rng(0)
    data = tmp_path / "novel.txt"
    words = [f"{a}{b}" for a in "bdfgklmn" for b in "aeiou"]
    data.write_text("\n\n".join(" ".join(rng.choice(words, 60)) for _ in range(120)))
    flags = "--model gpt --seq 256 --batch 16 --epochs 2 --seed 3 --device cpu --dropout 0".split()

    def done(run, code):
        asked = [sys.executable, "-c", code, "train", str(data), "--output", str(run), *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        return subprocess.run(asked, capture_output=True, text=True, env=environment, timeout=300)

    plain = done(tmp_path / "plain", "import sys; from fromzero.cli import main; sys.exit(main(sys.argv[1:]))")
    assert plain.returncode == 0, plain.stderr
    tight = done(tmp_path / "tight", _SQUEEZED.format(step=step, spare=24))
    assert tight.returncode == 0, tight.stderr
    assert f"Memory ran out in step {step}" in tight.stderr
    assert Run(tmp_path / "tight").record()["rung"] > 0
    assert losses(Run(tmp_path / "tight")) == pytest.approx(losses(Run(tmp_path / "plain")), rel=1e-4)
