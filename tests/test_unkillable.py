"""Runs that are killed, stopped, or lose their disk, their data or their checkpoint: what goes on afterwards ends with
the same bits. Each in a process of its own; benchmarks/kills.py does more of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromzero.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]

_CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started from
import fromzero.training as training
training.SAVE_SECONDS = {save}
{patch}
from fromzero.cli import main
sys.exit(main(sys.argv[1:]))
"""
# Says when step number {number} is due, and waits there until it is told to go on.
_HOLD = """
step, count = training._step, [0]
def held(job, parts):
    count[0] += 1
    if count[0] == {number}:
        print("here", flush=True)
        sys.stdin.readline()
    return step(job, parts)
training._step = held
"""


_alive = []


@pytest.fixture(autouse=True)
def _nobody_is_left():
    yield
    while _alive:
        process = _alive.pop()
        process.kill()
        process.communicate()


def started(*arguments, patch="", save=0.05, threads=1):
    code = _CHILD.format(patch=patch, save=save)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    _alive.append(process)
    return process


def done(*arguments, **more):
    """A process that ran to its end, with what it said."""
    process = started(*arguments, **more)
    process.out, process.err = process.communicate(timeout=300)
    return process


def held(*arguments, number, **more):
    """A process that waits before its step `number`."""
    process = started(*arguments, patch=_HOLD.format(number=number), **more)
    assert process.stdout.readline() == "here\n", process.stderr.read()
    return process


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [f"{a:.3f},{b:.3f},{c:.3f},{('no', 'yes')[int(a + b > c)]}" for a, b, c in rng.normal(size=(120, 3))]
    path.write_text("\n".join(["a,b,c,label", *lines]) + "\n")
    return path


WORDS = "--model mlp --batch 8 --epochs 3 --device cpu --seed 3 --dropout 0.2".split()
PICTURES = "--model cnn --imgsz 24 --batch 8 --epochs 3 --device cpu --seed 3 --augmentation crop-flip".split()


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    process = done("train", rows, "--output", run, *WORDS)
    assert process.returncode == 0, process.err
    return run


def trace(run: Path):
    """All that must not depend on what happened to a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = [each for each in events.Tags()["scalars"] if each.startswith(("train/", "epoch/"))]
    found = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags}
    assert all(len({step for step, _ in points}) == len(points) for points in found.values())
    files = [*sorted(run.glob("checkpoints/*/*.safetensors")), run / "metrics.csv", run / "steps.csv"]
    return found | {str(each.relative_to(run)): each.read_bytes() for each in files}


def same(run, whole):
    ours, theirs = trace(run), trace(whole)
    assert [each for each in theirs if ours.get(each) != theirs[each]] == []
    assert ours.keys() == theirs.keys() and Run(run).record()["status"] == "finished"


def step_of(run):
    return json.loads((run / "checkpoints" / "last" / "state.json").read_text())["step"]


@pytest.mark.slow
def test_killed_at_random_moments(rows, whole, tmp_path):
    rng, kills = random.Random(5), 0
    while kills < 6:
        run = tmp_path / f"run-{kills}"
        process = started("train", rows, "--output", run, *WORDS)
        while not (run / "run.json").exists():
            assert process.poll() is None
            time.sleep(0.002)
        while kills < 6:
            time.sleep(rng.random() * 2)
            process.kill()
            kills += process.wait() == -signal.SIGKILL
            process = started("train", "--resume", run)
            if rng.random() < 0.5:
                break
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        same(run, whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_saves_and_says_how_to_go_on(rows, whole, tmp_path, number, status):
    run = tmp_path / "a run"
    process = held("train", rows, "--output", run, *WORDS, number=7, save=60)
    process.send_signal(number)
    time.sleep(0.2)
    _, said = process.communicate("\n", timeout=120)
    assert process.returncode == status and "Traceback" not in said
    assert f"fromzero train --resume '{run}'" in said
    assert step_of(run) == 7 and Run(run).record()["status"] == "stopped"
    resumed = done("train", "--resume", run)
    assert resumed.returncode == 0, resumed.err
    same(run, whole)


def test_a_second_process_cannot_resume_a_run_that_is_at_work_and_a_second_signal_ends_it(rows, whole, tmp_path):
    run = tmp_path / "run"
    process = held("train", rows, "--output", run, *WORDS, number=7, save=0)
    refused = done("train", "--resume", run)
    assert refused.returncode == 1 and "another process is training" in refused.err
    refused = done("train", rows, "--output", run, *WORDS)
    assert refused.returncode == 1 and "run_exists" in refused.err
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)  # it is still held within its step
    assert process.wait(30) == -signal.SIGTERM
    assert done("train", "--resume", run).returncode == 0
    same(run, whole)


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path):
    """A file system of its own, of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_loses_nothing(rows, whole, mounted):
    run = mounted / "run"
    process = held("train", rows, "--output", run, *WORDS, number=12, save=0)
    filling = mounted / "filling"
    with filling.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"0" * 4096)
    _, said = process.communicate("\n", timeout=120)
    assert process.returncode == 1 and "could not be written" in said and "Traceback" not in said
    assert step_of(run) >= 11  # a checkpoint that takes the place of another leaves its room
    still = done("train", "--resume", run)
    assert still.returncode == 1 and "could not be written" in still.err and "Traceback" not in still.err
    filling.unlink()
    resumed = done("train", "--resume", run)
    assert resumed.returncode == 0, resumed.err
    same(run, whole)


def test_a_disk_that_became_read_only_loses_nothing(rows, whole, mounted):
    run = mounted / "run"
    process = held("train", rows, "--output", run, *WORDS, number=12, save=0)
    process.kill()
    process.wait()
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    refused = done("train", "--resume", run)
    assert refused.returncode == 1 and "could not be written" in refused.err and "Traceback" not in refused.err
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    assert done("train", "--resume", run).returncode == 0
    same(run, whole)


# --- data ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Too many to be kept decoded, as far as the children know."""
    root, rng = tmp_path_factory.mktemp("pictures") / "data", np.random.default_rng(0)
    for label, tint in enumerate(((200, 60, 60), (60, 200, 60))):
        (root / str(label)).mkdir(parents=True)
        for number in range(40):
            values = np.clip(tint + rng.normal(0, 60, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(values).save(root / str(label) / f"{number}.png")
    return root


_NOT_KEPT = """
from fromzero.data import load
load.KEPT_BYTES = 0
"""


def test_data_that_go_away_stop_the_run_before_it_learns_from_stand_ins(pictures, tmp_path):
    whole, run, away = tmp_path / "whole", tmp_path / "run", pictures.with_name("away")
    assert done("train", pictures, "--output", whole, *PICTURES, patch=_NOT_KEPT).returncode == 0
    process = started("train", pictures, "--output", run, *PICTURES, patch=_NOT_KEPT + _HOLD.format(number=10), save=60)
    assert process.stdout.readline() == "here\n", process.stderr.read()
    pictures.rename(away)
    pictures.mkdir()  # as where a disk was mounted
    _, said = process.communicate("\n", timeout=120)
    assert process.returncode == 1 and "data of this run are gone" in said and "Traceback" not in said
    assert step_of(run) >= 10
    refused = done("train", "--resume", run, patch=_NOT_KEPT)
    assert refused.returncode in (1, 2) and "Traceback" not in refused.err
    pictures.rmdir()
    away.rename(pictures)
    resumed = done("train", "--resume", run, patch=_NOT_KEPT)
    assert resumed.returncode == 0, resumed.err
    same(run, whole)


# --- checkpoints --------------------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(("damage", "file"), [(flip, "model.safetensors"), (cut, "state.json")])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_goes_on(rows, whole, tmp_path, damage, file):
    run = tmp_path / "run"
    process = held("train", rows, "--output", run, *WORDS, number=12, save=0)
    process.kill()
    process.wait()
    damage(run / "checkpoints" / "last" / file)
    resumed = done("train", "--resume", run)
    assert resumed.returncode == 0, resumed.err
    assert "does not match its checksum" in resumed.err and "at step 10" in resumed.err
    same(run, whole)
    assert not (run / "checkpoints" / "last.old").exists()


def test_a_run_killed_before_its_trained_weights_were_there_does_not_start_from_scratch(rows, whole, tmp_path):
    run = tmp_path / "run"
    patch = "from fromzero import checkpoint\ncheckpoint.save = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    weights = whole / "checkpoints" / "best" / "model.safetensors"
    killed = done("train", rows, "--output", run, *WORDS, "--pretrained", weights, patch=patch)
    assert killed.returncode == -signal.SIGKILL and (run / "run.json").exists()
    resumed = done("train", "--resume", run)
    assert resumed.returncode == 1 and "no_checkpoint" in resumed.err


# --- clocks -------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing(rows, whole, tmp_path):
    """In the resumed process it goes two days back."""
    run = tmp_path / "run"
    jump = "import time\nclock = time.time\ntime.time = lambda: clock() + {by}\n"
    process = started("train", rows, "--output", run, *WORDS, patch=_HOLD.format(number=8), save=0)
    assert process.stdout.readline() == "here\n"
    process.kill()
    process.wait()
    resumed = done("train", "--resume", run, patch=jump.format(by=-2 * 86400))
    assert resumed.returncode == 0, resumed.err
    same(run, whole)


@pytest.mark.slow
def test_two_threads_are_as_reproducible(rows, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert done("train", rows, "--output", whole, *WORDS, threads=2).returncode == 0
    process = held("train", rows, "--output", run, *WORDS, number=12, save=0, threads=2)
    process.kill()
    process.wait()
    assert done("train", "--resume", run, threads=2).returncode == 0
    same(run, whole)
