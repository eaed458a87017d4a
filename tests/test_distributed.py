"""Many processes are one: the same losses and weights as a single process, whatever dies in between. Over gloo."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fromzero.launching import STORE, command

# Run by each process of a group: trains a small language model, whose output layer is its embedding, in each of the
# ways named, and writes its losses down.
WORKER = '''
import json, sys
from pathlib import Path
import numpy as np
import torch
from fromzero import engine as engines
from fromzero.models.transformer import Gpt
from fromzero.records import Recipe
from fromzero.step import make_optimizer

ROWS, STEPS = 32, 8  # of a step; all sequences count upwards
STARTS = torch.randint(0, 40, (ROWS * (STEPS + 3), 1), generator=torch.Generator().manual_seed(1))
TOKENS = (STARTS + torch.arange(9)) % 40


def loss_of(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def model():
    torch.manual_seed(0)
    made = Gpt(vocabulary=40, width=32, layers=4)
    for each in made.modules():  # dropout is another for each process
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.0
    for each in made.blocks:
        each.dropout = 0.0
    return made


def job(parallel, cards, **more):
    rows = ROWS // (1 if parallel == "pipeline" else cards)
    recipe = Recipe(batch=rows, cards=cards, parallel=parallel, lr=1e-2, **more)
    engine = engines.start(recipe, "cpu")
    learner = engine.wrap(model(), TOKENS[: recipe.batch, :-1])
    return engine, learner, engine.prepare_optimizer(make_optimizer(learner, engine.recipe))


def steps(engine, learner, optimizer, first, last):
    mine, processes = engine.part
    losses = []
    for step in range(first, last):
        batches = []
        for micro in range(engine.recipe.accumulate):
            at = step * ROWS + (micro * processes + mine) * engine.recipe.batch
            rows = TOKENS[at : at + engine.recipe.batch]
            batches.append((rows[:, :-1], rows[:, 1:]))
        loss = engine.step(learner, loss_of, optimizer, batches, engine.recipe)
        losses.append([float(engine.mean(loss)), float(engine.norm)])
    return losses


def whole(engine, learner, optimizer):
    """Names and sums of the full state, the same for any division."""
    found = engine.tensors(learner, optimizer)
    return {f"{g}.{n}": float(v.double().abs().sum()) for g, tensors in found.items() for n, v in tensors.items()}


def curves(ways, out):
    told = {}
    for way in ways:
        parallel, cards, *more = way.split(":")
        engine, learner, optimizer = job(parallel, int(cards), **dict([each.split("=") for each in more]))
        told[way] = {"losses": steps(engine, learner, optimizer, 0, STEPS), "state": whole(engine, learner, optimizer)}
        learner.eval()
        rows = engine.share(np.arange(7))
        answers = engine.gathered(learner(TOKENS[rows, :-1]).detach().numpy(), 7)
        told[way]["answers"] = answers[:, -1, :3].tolist()
        if parallel == "fsdp" and engine.sharded:
            engine.save(out / "sharded", learner, optimizer, {"step": STEPS}, whole=False)
            told[way]["next"] = steps(engine, learner, optimizer, STEPS, STEPS + 3)
    return engine, told


def resumed(ways, out):
    told = {}
    for way in ways:
        parallel, cards = way.split(":")
        engine, learner, optimizer = job(parallel, int(cards))
        _, state = engine.load(out / "sharded", learner, optimizer)
        told[way] = {"next": steps(engine, learner, optimizer, state["step"], state["step"] + 3)}
    return engine, told


if __name__ == "__main__":
    engine, told = globals()[sys.argv[1]](sys.argv[3:], Path(sys.argv[2]))
    if engine.main:
        name = f"{sys.argv[1]}-{engine.processes}.json"
        Path(sys.argv[2], name).write_text(json.dumps(told))
    engine.close()
'''
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", STORE: "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What `processes` said when they did `what` in each of `ways`, once for all tests."""
    out = tmp_path_factory.mktemp("group")
    (out / "worker.py").write_text(WORKER)

    def run(what, processes, *ways):
        place = out / f"{what}-{processes}.json"
        if not place.exists():
            start = [sys.executable]
            if processes > 1:
                start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            done = subprocess.run(
                [*start, out / "worker.py", what, out, *ways], env=QUIET, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[:4000]
        return json.loads(place.read_text())

    return run


@pytest.fixture(scope="module")
def alone(told):
    return told("curves", 1, "ddp:1", "ddp:4", "ddp:1:offload=optimizer")


@pytest.fixture(scope="module")
def two(told):
    return told("curves", 2, "ddp:2", "fsdp:2", "fsdp-grad-op:2", "pipeline:2", "ddp:4", "ddp:2:offload=optimizer")


@pytest.fixture(scope="module")
def four(told):
    return told("curves", 4, "ddp:4", "fsdp:4", "pipeline:4")


def same(found, expected, within=1e-5):
    losses, norms = np.abs(np.array(found["losses"]) - np.array(expected["losses"])).max(0)
    assert losses < within and norms < 10 * within
    assert np.abs(np.array(found["answers"]) - np.array(expected["answers"])).max() < 1e-4
    assert found["state"].keys() == expected["state"].keys()
    for name, value in expected["state"].items():
        assert found["state"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_every_step_changes_something(alone):
    assert len({loss for loss, _ in alone["ddp:1"]["losses"]}) == len(alone["ddp:1"]["losses"]) == 8


def test_one_process_accumulates_for_four(alone):
    same(alone["ddp:4"], alone["ddp:1"])


def test_an_optimizer_in_the_machines_memory_does_the_same(alone):
    assert alone["ddp:1:offload=optimizer"] == alone["ddp:1"]


@pytest.mark.parametrize("way", ["ddp:2", "fsdp:2", "fsdp-grad-op:2", "pipeline:2", "ddp:4", "ddp:2:offload=optimizer"])
def test_two_processes_give_the_curve_of_one(two, alone, way):
    """Losses, norms of the gradients, answers, and the whole state in the same layout."""
    same(two[way], alone["ddp:1"])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp:4", "fsdp:4", "pipeline:4"])
def test_four_processes_give_the_curve_of_one(four, alone, way):
    same(four[way], alone["ddp:1"])


@pytest.mark.slow
def test_shards_of_four_are_read_by_two_and_by_one(four, told, tmp_path_factory):
    expected = np.array(four["fsdp:4"]["next"])
    for processes in (2, 1):
        for way, found in told("resumed", processes, "fsdp:4", "ddp:4").items():
            assert np.abs(np.array(found["next"]) - expected)[:, 0].max() < 1e-5, (processes, way)


def test_a_group_must_be_able_to_share_the_work():
    from fromzero.engine import shared
    from fromzero.errors import UsageError
    from fromzero.records import Recipe

    halved = shared(Recipe(cards=4, accumulate=3), 2)
    assert (halved.cards, halved.accumulate) == (2, 6)
    with pytest.raises(UsageError, match="cards"):
        shared(Recipe(cards=4), 3)
    with pytest.raises(UsageError, match="stages"):
        shared(Recipe(cards=4, parallel="pipeline"), 2)


# --- whole runs -------------------------------------------------------------------------------------------------------

MODEL = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, classes, channels, size):
        super().__init__()
        self.enter = nn.Linear(channels * size * size, 32)
        self.blocks = nn.ModuleList(Block(32) for _ in range(4))
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        x = self.enter(x.flatten(1))
        for each in self.blocks:
            x = each(x)
        return self.head(x)


def make(classes=3, channels=1, size=16):
    return Net(classes, channels, size)
"""
EPOCHS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures, a network without batch norm and the words of a training of two processes."""
    root = tmp_path_factory.mktemp("together")
    (root / "blocks.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    for number in range(120):
        path = root / "pictures" / f"class-{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.full((16, 16), 60 + 60 * (number % 3)) + rng.normal(0, 60, (16, 16))
        Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)).save(path)
    return root


def words(place, output, *more, batch=8):
    shape = ["--model", f"{place / 'blocks.py'}:make", "--imgsz", "16", "--batch", str(batch), "--device", "cpu"]
    course = ["--epochs", str(EPOCHS), "--patience", str(EPOCHS), "--augmentation", "none", "--seed", "3"]
    return [sys.executable, "-m", "fromzero", "train", place / "pictures", "--output", output, *shape, *course, *more]


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last" / "model.safetensors").read_bytes()


def history(run: Path) -> str:
    return (run / "metrics.csv").read_text()


def epochs(run: Path) -> int:
    return history(run).count("\n") - 1 if (run / "metrics.csv").exists() else 0


def until(reached, seconds=300):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def started(line, log):
    """A command at work, what it says in a file; ended with the block."""
    with log.open("w") as said:
        process = subprocess.Popen(line, env=QUIET, stderr=said, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def undisturbed(place):
    """The run of two processes that nothing happened to."""
    done = subprocess.run(words(place, place / "whole", "--cards", "2"), env=QUIET, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == str(place / "whole")  # each process is silent but the one that was asked
    return place / "whole"


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_run_ends_with_the_same_bits(place, undisturbed):
    run = place / "killed"
    with started(words(place, run, "--cards", "2"), place / "killed.log") as process:
        until(lambda: epochs(run) >= 5)
        time.sleep(0.03)
        psutil.Process(process.pid).children()[1].send_signal(signal.SIGKILL)
        process.wait(300)
    told = (place / "killed.log").read_text()
    assert process.returncode == 0, told[-3000:]
    assert "Continuing at step" in told
    assert weights(run) == weights(undisturbed) and history(run) == history(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--freeze", "gradual")])
def test_the_average_of_two_processes_is_that_of_one(place, more):
    """Every process moves the same average, which is measured and kept; of blocks that thaw one by one, too."""
    for name, cards, batch in (("average-one", "1", 16), ("average-two", "2", 8)):
        shutil.rmtree(place / name, ignore_errors=True)
        line = words(place, place / name, "--cards", cards, "--ema", "0.9", "--epochs", "6", *more, batch=batch)
        done = subprocess.run(line, env=QUIET, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        load_file(place / name / "checkpoints" / "best" / "model.safetensors")
        for name in ("average-one", "average-two")
    )
    moving = load_file(place / "average-two" / "checkpoints" / "last" / "model.safetensors")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert any(not torch.allclose(moving[name], two[name], atol=1e-4) for name in two)


@pytest.mark.slow
def test_a_stopped_job_saves_and_continues_on_one_card(place, undisturbed):
    """SIGTERM to the one that was started reaches all; one process then does the work of two."""
    run = place / "stopped"
    with started(words(place, run, "--cards", "2"), place / "stopped.log") as process:
        until(lambda: epochs(run) >= 3)
        process.send_signal(signal.SIGTERM)
        process.wait(300)
    assert process.returncode == 128 + signal.SIGTERM, (place / "stopped.log").read_text()[-3000:]
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    alone = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    again = [sys.executable, *alone, "-m", "fromzero", "train", "--resume", run]
    done = subprocess.run(again, env=QUIET, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for mine, theirs in zip(history(run).split()[1:], history(undisturbed).split()[1:], strict=True):
        assert [float(x) for x in mine.split(",")] == pytest.approx([float(x) for x in theirs.split(",")], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel, batch", [("fsdp", 8), ("pipeline", 16)])
def test_divided_models_train_from_the_command_line(place, undisturbed, parallel, batch):
    run = place / parallel
    done = subprocess.run(
        words(place, run, "--cards", "2", "--parallel", parallel, batch=batch),
        env=QUIET,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    columns = history(undisturbed).splitlines()[0].split(",")
    at = [columns.index(name) for name in ("train_loss", "val_loss", "lr")]
    for mine, theirs in zip(history(run).split()[1:], history(undisturbed).split()[1:], strict=True):
        for column in at:
            assert float(mine.split(",")[column]) == pytest.approx(float(theirs.split(",")[column]), abs=1e-5)
    assert not list((run / "checkpoints").glob("*/shard-*"))  # a finished run holds its weights in one file


# --- two machines -----------------------------------------------------------------------------------------------------


@pytest.fixture
def machines():
    """Two network namespaces with a cable between them: (name, address, device) of each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    found = [(f"fz{os.getpid()}{n}", f"10.231.77.{n}", f"v{os.getpid()}{n}") for n in (1, 2)]
    made = subprocess.run(["ip", "netns", "add", found[0][0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        ip("netns", "add", found[1][0])
        ip("link", "add", found[0][2], "type", "veth", "peer", "name", found[1][2])
        for name, address, device in found:
            ip("link", "set", device, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", device, "up")
        yield found
    finally:
        for name, *_ in found:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*given):
    subprocess.run(["ip", *given], check=True, capture_output=True)


@pytest.mark.slow
def test_a_machine_that_is_cut_off_comes_back(place, undisturbed, machines):
    """The cable is out for longer than the machines wait for each other. Whatever keeps a machine's job (Slurm,
    Kubernetes) starts it again when it ended; the run goes on from its last checkpoint to the same bits."""
    run = place / "machines"
    made = subprocess.run(words(place, run, "--cards", "2", "--nodes", "2"), env=QUIET, capture_output=True, text=True)
    assert made.returncode == 0 and "torch.distributed.run" in made.stderr, made.stderr[-3000:]
    line = command(run, 2, 1, machines[0][1], "job")
    line[line.index("python")] = sys.executable
    at = line.index("torch.distributed.run") + 1

    def start(number):
        name, address, device = machines[number]
        more = [f"--local-addr={address}", f"--rdzv-conf=is_host={int(number == 0)}"]  # here both are one host
        keys = {**QUIET, "GLOO_SOCKET_IFNAME": device, "FROMZERO_PATIENCE": "6"}
        words = ["ip", "netns", "exec", name, *line[:at], *more, *line[at:]]
        return subprocess.Popen(words, env=keys, stderr=logs[number], stdout=subprocess.DEVNULL)

    logs = [(place / f"machine-{number}.log").open("w+") for number in (0, 1)]
    working = [start(0), start(1)]
    try:
        until(lambda: epochs(run) >= 5)
        ip("-n", machines[1][0], "link", "set", machines[1][2], "down")
        time.sleep(12)
        reached = epochs(run)
        assert reached < EPOCHS
        ip("-n", machines[1][0], "link", "set", machines[1][2], "up")
        end = time.monotonic() + 240
        while any(each.poll() != 0 for each in working):
            assert time.monotonic() < end, [Path(each.name).read_text()[-2000:] for each in logs]
            working = [start(n) if each.poll() not in (None, 0) else each for n, each in enumerate(working)]
            time.sleep(0.5)
    finally:
        for each in working:
            each.kill()
    assert "Continuing at step" in Path(logs[0].name).read_text()
    assert weights(run) == weights(undisturbed) and history(run) == history(undisturbed)
