"""train() and resume(): a run follows its plan, is recorded, and cannot be killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromzero.errors import DataError, FromzeroError, RunError, UnknownName, UsageError
from fromzero.records import Card
from fromzero.runs import Run
from fromzero.starting import train
from fromzero.training import resume

WORDS = {"epochs": 3, "batch": 8, "imgsz": 16, "seed": 3}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of 40 noisy stripes, circles of grey and gradients: learnable in a second."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(40):
        for label, make in enumerate((_stripes, _columns, _gradient)):
            path = root / f"class-{label}" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            noise = rng.normal(0, 25, (16, 16))
            Image.fromarray(np.clip(make(rng) + noise, 0, 255).astype(np.uint8)).save(path)
    return root


def _stripes(rng):
    return np.repeat((np.arange(16) // 2 % 2)[:, None] * rng.integers(100, 250), 16, 1)


def _columns(rng):
    return _stripes(rng).T


def _gradient(rng):
    return np.add.outer(np.arange(16), np.arange(16)) * rng.integers(4, 8)


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """A run that nothing disturbed."""
    return train(pictures, output=tmp_path_factory.mktemp("runs") / "whole", **WORDS)


def weights(run: Path, which: str = "last") -> bytes:
    return (run / "checkpoints" / which / "model.safetensors").read_bytes()


def history(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_run_folder_holds_what_the_contract_says(whole):
    for name in ("plan.json", "run.json", "metrics.csv", "tensorboard"):
        assert (whole.path / name).exists(), name
    for which in ("last", "best"):
        assert weights(whole.path, which)
    assert (whole.last / "optimizer.safetensors").is_file() and (whole.last / "state.json").is_file()
    record = whole.record()
    assert record["status"] == "finished"
    assert record["predicted"]["memory"]["process_peak"] > 0 and record["predicted"]["time"]["step"] > 0
    assert record["measured"]["process_peak"] > record["measured"]["base"] > 0
    assert record["measured"]["step"] > 0
    assert [int(row["epoch"]) for row in history(whole.path)] == [1, 2, 3]


def test_a_wrong_way_to_square_pictures_is_refused(pictures, tmp_path):
    with pytest.raises(UnknownName) as wrong:
        train(pictures, resize="stretch", output=tmp_path / "run", **WORDS)
    assert wrong.value.code == "unknown_choice" and not (tmp_path / "run").exists()


def test_it_learns(whole):
    assert whole.record()["best"]["val_accuracy"] >= 0.9


def test_tensorboard_holds_the_epochs(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole.path / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("epoch/val_accuracy")) == 3


def test_same_seed_same_bits_other_seed_others(pictures, whole, tmp_path):
    again = train(pictures, output=tmp_path / "again", **WORDS)
    assert weights(again.path) == weights(whole.path)
    assert history(again.path) == history(whole.path)
    other = train(pictures, output=tmp_path / "other", **{**WORDS, "seed": 4})
    assert weights(other.path) != weights(whole.path)


# Runs the command line in a process of its own; `patch` is code that arranges its death.
_CHILD = """
import os, signal, sys
import fromzero.training as training, fromzero.checkpoint as checkpoint
training.SAVE_SECONDS = 0.0
def die(): os.kill(os.getpid(), signal.SIGKILL)
{patch}
from fromzero.cli import main
sys.exit(main(sys.argv[1:]))
"""
_AT_STEP = """
step, count = training._step, [0]
def counted(*args, **kwargs):
    count[0] += 1
    if count[0] == {number}: die()
    return step(*args, **kwargs)
training._step = counted
"""
_IN_WRITE = """
write, count = checkpoint.save_file, [0]
def cut(tensors, path):
    count[0] += 1
    write(tensors, path)
    if count[0] == {number}:
        with open(path, 'r+b') as file: file.truncate(os.path.getsize(path) // 2)
        die()
checkpoint.save_file = cut
"""
_IN_SWAP = """
replace, count = os.replace, [0]
def cut(a, b):
    replace(a, b)
    if str(b).endswith('last.old'):
        count[0] += 1
        if count[0] == {number}: die()
checkpoint.os.replace = cut
"""
_AT_BEST = """
save = checkpoint.save
checkpoint.save = lambda folder, *args, **more: die() if folder.name == 'best' else save(folder, *args, **more)
"""
KILLS = [
    ("first step", _AT_STEP.format(number=2)),
    ("middle of an epoch", _AT_STEP.format(number=14)),
    ("last epoch", _AT_STEP.format(number=28)),
    ("while a checkpoint is written", _IN_WRITE.format(number=9)),
    ("between the two renames of a swap", _IN_SWAP.format(number=4)),
    ("while the best weights are written", _AT_BEST),
]  # fmt: skip
RARE = ("first step", "last epoch", "between the two renames of a swap")


def child(patch: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = _CHILD.format(patch=patch)
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("when", "patch"),
    [pytest.param(*each, id=each[0], marks=pytest.mark.slow if each[0] in RARE else ()) for each in KILLS],
)
def test_killed_and_resumed_is_bit_identical(pictures, whole, tmp_path, when, patch):
    run = tmp_path / "run"
    flags = [f"--{name}={value}" for name, value in WORDS.items()]
    killed = child(patch, "train", str(pictures), "--output", str(run), *flags)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert Run(run).record()["status"] == "started"
    resumed = child("", "train", "--resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert weights(run) == weights(whole.path)
    assert weights(run, "best") == weights(whole.path, "best")
    assert history(run) == history(whole.path)
    assert Run(run).record()["status"] == "finished"


def test_killed_at_a_random_moment_by_another_process(pictures, whole, tmp_path):
    run = tmp_path / "run"
    flags = [f"--{name}={value}" for name, value in WORDS.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(patch=""), "train", str(pictures), "--output", str(run), *flags],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (run / "checkpoints" / "last" / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    resume(run)
    assert weights(run) == weights(whole.path)


def test_workers_do_not_change_the_result(pictures, tmp_path, monkeypatch):
    from fromzero.data import load

    words = {**WORDS, "epochs": 1, "augmentation": "crop-flip"}
    results = []
    for workers in (0, 2):
        monkeypatch.setattr(load.Pictures, "workers", workers)
        results.append(weights(train(pictures, output=tmp_path / str(workers), **words).path))
    assert results[0] == results[1]


def test_a_finished_run_is_left_alone(whole):
    before = weights(whole.path)
    assert resume(whole.path).path == whole.path
    assert weights(whole.path) == before


def test_an_existing_run_is_never_written_over(pictures, whole):
    with pytest.raises(RunError) as error:
        train(pictures, output=whole.path, **WORDS)
    assert error.value.code == "run_exists"


def test_a_resumed_run_takes_no_other_words(whole, capsys):
    from fromzero.cli import main

    assert main(["train", "--resume", str(whole.path), "--epochs", "9", "--lr", "1"]) == 2
    said = capsys.readouterr().err
    assert "resume_with_words" in said and "--epochs, --lr" in said
    assert main(["train", "--resume", str(whole.path), "--device", "cpu", "--track", "mlflow"]) == 2
    assert "--device, --track" in capsys.readouterr().err
    assert main(["train", "--resume", str(whole.path), "--json"]) == 0  # finished: nothing is left to do


def test_flags_that_would_do_nothing_are_refused(tiny_data, tmp_path, capsys):
    from fromzero.cli import main

    for words, code in (
        (["--budget", "3"], "budget_without_target"),
        (["--dora"], "dora_without_lora"),
        (["--seq", "8"], "flag_for_other_data"),
    ):
        assert main(["train", str(tiny_data), *words, "--output", str(tmp_path / "none")]) == 2
        assert code in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_class_that_only_the_test_part_has_is_named(tmp_path, capsys):
    from fromzero.preparing import prepare
    from fromzero.terminal import Terminal

    rows = [f"{n},{'ab'[n % 2]},{'test' if n % 4 == 0 else 'train'}" for n in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(["size,label,split", *rows, "1,c,test", "2,c,test"]) + "\n")
    prepare(tmp_path / "t.csv", Terminal())
    assert "No training sample is of class c:" in capsys.readouterr().err


def test_changed_data_cannot_be_resumed(pictures, tmp_path):
    import shutil

    mine = tmp_path / "data"
    shutil.copytree(pictures, mine)
    run = tmp_path / "run"
    child(_AT_STEP.format(number=5), "train", str(mine), "--output", str(run), "--epochs=3", "--batch=8")
    next((mine / "class-0").glob("*.png")).unlink()
    with pytest.raises(RunError) as error:
        resume(run)
    assert error.value.code == "data_changed"


def test_bad_pictures_are_passed_over(pictures, tmp_path):
    import shutil

    mine = tmp_path / "data"
    shutil.copytree(pictures, mine, ignore=shutil.ignore_patterns(".fromzero"))
    (mine / "class-0" / "empty.png").write_bytes(b"")
    (mine / "class-1" / "text.jpg").write_text("not a picture")
    good = (mine / "class-2" / "0.png").read_bytes()
    (mine / "class-2" / "cut.png").write_bytes(good[: len(good) // 2])
    run = train(mine, output=tmp_path / "run", **{**WORDS, "epochs": 1})
    assert run.record()["status"] == "finished"


def test_bad_pictures_are_counted_aloud(tmp_path):
    from fromzero.preparing import prepare
    from fromzero.terminal import Console

    said: list[str] = []

    class Listening(Console):
        def line(self, text: str) -> None:
            said.append(text)

    for name in "ab":
        (tmp_path / name).mkdir()
        for n in range(8):
            pixels = np.random.default_rng((n, ord(name))).integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.png")
    prepare(tmp_path, Listening())
    assert said == []
    (tmp_path / "a" / "bad.png").write_bytes(b"no picture")
    prepare(tmp_path, Listening())
    assert "1 of 17 samples" in said[0]


def test_a_picture_lost_in_mid_run_does_not_end_it(pictures, tmp_path):
    import shutil

    from fromzero.data import load

    mine = tmp_path / "data"
    shutil.copytree(pictures, mine, ignore=shutil.ignore_patterns(".fromzero"))
    from fromzero.preparing import prepare
    from fromzero.tasks import image

    manifest = prepare(mine)
    how = image.preprocessing(manifest, "cnn", {"imgsz": 16})
    (mine / str(manifest["path"][0])).unlink()
    array, _ = load.Pictures(manifest, how)[(0, 0)]
    assert array.shape == (16, 16, 1)


def test_one_class_is_refused(tmp_path):
    (tmp_path / "only").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "only" / "a.png")
    with pytest.raises(DataError):
        train(tmp_path, output=tmp_path / "run")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp-fp16"])
def test_precisions_a_cpu_cannot_train_in_are_refused(pictures, tmp_path, precision):
    with pytest.raises(UsageError):
        train(pictures, output=tmp_path / "run", precision=precision, device="cpu")


def test_what_does_not_fit_is_refused_before_it_runs(pictures, tmp_path, monkeypatch):
    from fromzero.machine import detect

    tiny = Card(name="tiny", series="cpu", usable_bytes=2**20, bandwidth=1e10, rates={"fp32": 1e10}, tdp_watts=1)
    monkeypatch.setattr(detect, "this_cpu", lambda: tiny)
    with pytest.raises(FromzeroError) as error:
        train(pictures, output=tmp_path / "run", device="cpu", **WORDS)
    assert error.value.code == "does_not_fit" and error.value.status == 1
    assert not (tmp_path / "run").exists()


def test_a_plan_is_a_config(pictures, tmp_path):
    from fromzero.cli import main

    plan = tmp_path / "plan.json"
    words = ["--imgsz", "16", "--channels", "1", "--classes", "3", "--batch", "8", "--epochs", "1", "--clip", "0.5"]
    assert main(["plan", "cnn", "--card", "cpu", *words, "-o", str(plan)]) == 0
    assert main(["train", str(pictures), "--plan", str(plan), "--output", str(tmp_path / "run")]) == 0
    recipe = Run(tmp_path / "run").plan().recipe
    assert (recipe.batch, recipe.epochs, recipe.clip) == (8, 1, 0.5)


def test_training_stops_early(pictures, tmp_path):
    run = train(pictures, output=tmp_path / "run", **{**WORDS, "epochs": 30, "patience": 2})
    assert run.record()["epochs"] < 30


def test_accumulated_gradients_and_freezing(pictures, tmp_path):
    words = {"epochs": 1, "batch": 4, "accumulate": 2, "imgsz": 32, "freeze": "backbone"}
    run = train(pictures, model="resnet10t", output=tmp_path / "run", **words)
    assert run.record()["status"] == "finished"


def test_loss_that_is_no_number_is_said(pictures, tmp_path):
    with pytest.raises(RunError) as error:
        train(pictures, output=tmp_path / "run", **{**WORDS, "lr": 1e30, "clip": 0.0, "warmup": 0.0, "epochs": 20})
    assert error.value.code == "loss_not_finite"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs RLIMIT_FSIZE")
def test_full_disk_keeps_the_checkpoint_before(pictures, tmp_path):
    run = tmp_path / "run"
    fill = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save, count = checkpoint.save, [0]
def full(folder, *args, **more):
    count[0] += 1
    if count[0] == 6: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return save(folder, *args, **more)
checkpoint.save = full
"""
    done = child(
        fill, "train", str(pictures), "--output", str(run), "--epochs=3", "--batch=8", "--imgsz=16", "--seed=3"
    )
    assert done.returncode == 1 and "disk" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((run / "checkpoints" / "last" / "state.json").read_text())["step"] > 0
    assert child("", "train", "--resume", str(run)).returncode == 0


def test_trained_weights_are_where_a_run_starts(pictures, whole, tmp_path):
    file = str(whole.best / "model.safetensors")
    words = {**WORDS, "epochs": 1, "lr": 1e-6}
    better = train(pictures, output=tmp_path / "run", pretrained=file, **words)
    fresh = train(pictures, output=tmp_path / "fresh", **words)
    assert better.record()["best"]["val_accuracy"] > fresh.record()["best"]["val_accuracy"]


def test_a_head_fitted_first_is_where_a_run_starts(pictures, whole, tmp_path):
    file = str(whole.best / "model.safetensors")
    words = {**WORDS, "epochs": 1, "lr": 1e-9, "warmup": 0.0, "augmentation": "none"}
    plain = train(pictures, output=tmp_path / "plain", pretrained=file, init="he", **words)
    fitted = train(pictures, output=tmp_path / "fitted", pretrained=file, linear_probe=True, **words)
    one, other = (
        float(next(csv.DictReader(run.metrics.read_text().splitlines()))["train_loss"]) for run in (plain, fitted)
    )
    assert other < 0.9 * one


@pytest.mark.parametrize(
    "model, words, code",
    [("cnn", {}, "probe_of_nothing"), ("gpt", {"pretrained": "auto"}, "probe_of_tokens")],
)
def test_a_head_is_fitted_to_trained_weights_of_classifiers_only(tmp_path, tiny_data, model, words, code):
    data = tiny_data
    if model == "gpt":
        data = tmp_path / "text.txt"
        data.write_text("\n\n".join(f"Paragraph {number} has {number * 7} words." for number in range(200)))
    with pytest.raises(UsageError) as error:
        train(data, output=tmp_path / "run", model=model, linear_probe=True, **words)
    assert error.value.code == code and not (tmp_path / "run").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd-momentum", "rmsprop"])
def test_one_cycle_moves_the_momentum_of_whatever_has_one(pictures, tmp_path, optimizer, monkeypatch):
    from fromzero import training

    seen, stepped = [], training.stepped

    def spied(job, parts):
        done = stepped(job, parts)
        group = job.optimizer.param_groups[0]
        seen.append(group["betas"][0] if "betas" in group else group["momentum"])
        return done

    monkeypatch.setattr(training, "stepped", spied)
    train(pictures, output=tmp_path / "run", **{**WORDS, "epochs": 2}, schedule="one-cycle", optimizer=optimizer)
    if optimizer == "rmsprop":
        assert set(seen) == {0}
    else:
        assert seen[0] == pytest.approx(0.95) and min(seen) < 0.88 and seen[-1] > seen[len(seen) // 2]


def test_the_last_epoch_is_the_result_where_that_is_asked(pictures, tmp_path):
    run = train(pictures, output=tmp_path / "run", **{**WORDS, "epochs": 4, "patience": 1, "lr": 1e-9}, select="last")
    assert run.record()["best"]["epoch"] == 4


def test_missing_weights_leave_no_run_behind(pictures, tmp_path):
    with pytest.raises(UsageError) as error:
        train(pictures, output=tmp_path / "run", pretrained=str(tmp_path / "none.safetensors"), **WORDS)
    assert error.value.code == "weights_missing"
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_kind_of_data_is_refused(pictures, tmp_path):
    with pytest.raises(UsageError) as error:
        train(pictures, model="hf:gpt2", output=tmp_path / "run")
    assert error.value.code == "kind_not_for_model"


def test_a_model_of_the_users_own_is_found_from_anywhere(pictures, tmp_path, monkeypatch):
    from fromzero.predicting import predict

    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(classes, channels):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(8, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    run = train(pictures, model="mine.py:make", output=tmp_path / "run", **{**WORDS, "epochs": 1})
    monkeypatch.chdir("/")
    assert len(predict(run.path, [pictures / "class-0" / "0.png"])[0]) == 3


def test_the_energy_of_a_run_is_recorded(whole):
    measured = whole.record()["measured"]
    assert measured["kwh"] > 0 and measured["seconds"] > 0


def test_two_processes_cannot_write_one_run(pictures, tmp_path):
    run = tmp_path / "run"
    child(_AT_STEP.format(number=5), "train", str(pictures), "--output", str(run), "--epochs=3", "--batch=8")
    from filelock import FileLock

    with FileLock(run / ".lock"), pytest.raises(RunError) as error:
        resume(run)
    assert error.value.code == "run_in_use"
    assert resume(run).record()["status"] == "finished"


def test_a_frozen_backbone_is_run_once_and_ends_the_same(tiny_data, tmp_path, monkeypatch):
    """With and without the cached features: the same losses, and the backbone sees every picture once."""
    import fromzero.training as training

    words = {"model": "resnet18", "imgsz": 32, "epochs": 3, "batch": 8, "freeze": "backbone", "augmentation": "none"}
    cached = train(tiny_data, output=tmp_path / "cached", device="cpu", **words)
    monkeypatch.setattr(training, "frozen_head", lambda model: None)
    whole = train(tiny_data, output=tmp_path / "whole", device="cpu", **words)
    one, other = (list(csv.DictReader(run.metrics.open())) for run in (cached, whole))
    for name in ("train_loss", "val_loss"):
        assert [float(row[name]) for row in one] == pytest.approx([float(row[name]) for row in other], rel=1e-3)
    assert cached.record()["measured"]["cached_features"] and not whole.record()["measured"]["cached_features"]
    from fromzero.checkpoint import load as load_checkpoint

    kept = [load_checkpoint(run.best, "model")[0]["model"] for run in (cached, whole)]
    assert all(torch.allclose(kept[0][name], kept[1][name], atol=1e-4) for name in kept[0])


def test_mixed_pictures_train_and_resume_alike(tiny_data, tmp_path):
    run = train(tiny_data, output=tmp_path / "mixed", device="cpu", model="cnn", epochs=2, batch=14, mix="cutmix")
    assert len(run.metrics.read_text().splitlines()) == 3
    again = train(tiny_data, output=tmp_path / "again", device="cpu", model="cnn", epochs=2, batch=14, mix="cutmix")
    losses = [[row["train_loss"] for row in csv.DictReader(each.metrics.open())] for each in (run, again)]
    assert losses[0] == losses[1]


def test_pictures_under_two_labels_are_said_before_training(tiny_data, tmp_path, capsys):
    import shutil

    from fromzero.preparing import prepare
    from fromzero.terminal import Terminal

    data = shutil.copytree(tiny_data, tmp_path / "data")
    prepare(data, Terminal())
    assert "several classes" not in capsys.readouterr().err
    first, second = sorted(each for each in data.iterdir() if each.is_dir())[:2]
    shutil.copy(next(first.glob("*.png")), second / "again.png")
    prepare(data, Terminal())
    assert "1 samples stand in several classes" in capsys.readouterr().err
