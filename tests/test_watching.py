"""What a run tells: the files are the same whether it was killed or not, nothing is told twice, and a tracker that
fails takes nothing with it."""

import csv
import json
import time
from collections import defaultdict

import pytest
import torch

from fromzero import trackers, training, watching
from fromzero.cli import main
from fromzero.errors import DiskError, MissingPackage, UnknownName
from fromzero.runs import Run
from fromzero.starting import train
from fromzero.terminal import Console
from fromzero.training import resume

WORDS = {"model": "cnn", "imgsz": 16, "epochs": 3, "batch": 14, "device": "cpu", "seed": 3}


class Cut(BaseException):
    """The process was killed: nothing handles this."""


class Lines(Console):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    console = Lines()
    return train(tiny_data, output=tmp_path_factory.mktemp("whole") / "run", console=console, **WORDS), console.lines


def events(run):
    """Every event in every file, whether a reader would look past it or not: (step, value) by name."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = defaultdict(list)
    for path in sorted((run.path / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith(("train/", "epoch/")):
                    found[value.tag].append((event.step, value.tensor.float_val[0]))
    return found


def killed(tiny_data, path, monkeypatch, after, where="step"):
    """A run that was killed after it was told of step `after`, or of epoch `after`."""
    told = getattr(watching.Watch, where)

    def tell(self, *args):
        found = told(self, *args)
        if (self.state.step if where == "step" else len(self.state.history)) == after:
            raise Cut
        return found

    def died(self, *_):  # closes nothing and tells nobody
        self.peak.stop(), self.sampler.stop()

    monkeypatch.setattr(watching.Watch, "__exit__", died)
    monkeypatch.setattr(watching.Watch, where, tell)
    with pytest.raises(Cut):
        train(tiny_data, output=path, **WORDS)
    monkeypatch.undo()
    return Run(path)


@pytest.mark.parametrize(("after", "where"), [(4, "step"), (2, "step"), (2, "epoch")])
def test_a_killed_run_leaves_the_same_files(whole, tiny_data, tmp_path, monkeypatch, after, where):
    run = killed(tiny_data, tmp_path / "run", monkeypatch, after, where)
    with run.steps.open("a", encoding="utf-8") as file:
        file.write("5,0.1")  # a line that was cut off
    resume(run.path)
    assert run.steps.read_bytes() == whole[0].steps.read_bytes()
    assert run.metrics.read_bytes() == whole[0].metrics.read_bytes()
    assert events(run) == events(whole[0])


def test_curves_of_a_short_run_are_of_every_step(whole):
    with whole[0].steps.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [*range(1, 1 + 3 * (42 // 14))]
    assert all(float(row["gradient_norm"]) > 0 and float(row["loss"]) > 0 for row in rows)
    board = events(whole[0])
    assert [step for step, _ in board["train/gradient_norm"]] == [int(row["step"]) for row in rows]
    assert board["train/loss"] == [(int(row["step"]), pytest.approx(float(row["loss"]))) for row in rows]


def test_lines_tell_speed_memory_and_what_is_left(whole):
    told = [line for line in whole[1] if line.startswith("Epoch")]
    assert len(told) == 3 and all("samples/s" in line and "iB)" in line for line in told)
    assert "left" in told[0] and "left" not in told[-1]


def test_energy_is_that_of_all_its_processes(whole, tiny_data, tmp_path, monkeypatch):
    run = killed(tiny_data, tmp_path / "run", monkeypatch, 2, "epoch")

    def busy(*arguments, step=training._step):  # the use of the CPU is known from a tenth of a second on
        until = time.perf_counter() + 0.1
        while time.perf_counter() < until:
            pass
        return step(*arguments)

    monkeypatch.setattr(training, "_step", busy)
    spent = run.record()["spent"]
    run.note(spent={**spent, "kwh": 5.0, "seconds": 1000.0})
    resume(run.path)
    measured = run.record()["measured"]
    assert measured["kwh"] > 5.0 and measured["seconds"] > 1000.0
    assert 0 < whole[0].record()["measured"]["kwh"] < 0.01


def test_the_disk_is_full(tiny_data, tmp_path, monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(watching, "_opened", lambda path, last: Full())
    with pytest.raises(DiskError):
        train(tiny_data, output=tmp_path / "run", **WORDS)


# --- trackers -----------------------------------------------------------------------------------------------------


class Heard:
    """A tracker that writes down what it is told."""

    where = "memory"

    def __init__(self, exact, fails_at=None):
        self.exact, self.fails_at, self.told, self.ends = exact, fails_at, [], []

    def tell(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("the server went away")
        self.told += [(name, step) for name in values if name.startswith(("train/", "epoch/"))]

    def end(self, finished):
        self.ends.append(finished)


def hear(monkeypatch, tracker):
    start = trackers.start
    monkeypatch.setattr(trackers, "named", lambda names: ("tensorboard", "heard"))
    monkeypatch.setattr(
        trackers, "start", lambda name, run, first: tracker if name == "heard" else start(name, run, first)
    )


@pytest.mark.parametrize("exact", [False, True])
def test_a_tracker_that_keeps_all_is_told_nothing_twice(tiny_data, tmp_path, monkeypatch, exact):
    before, after = Heard(exact), Heard(exact)
    hear(monkeypatch, before)
    told = watching.Watch.step

    def tell(self, values):
        found = told(self, values)
        if self.state.step == 5:  # the last checkpoint is that of step 3
            raise Cut
        return found

    monkeypatch.setattr(watching.Watch, "step", tell)
    with pytest.raises(Cut):
        train(tiny_data, output=tmp_path / "run", **WORDS)
    assert before.ends == [False]
    monkeypatch.undo()
    hear(monkeypatch, after)
    resume(tmp_path / "run")
    steps = lambda heard: [step for name, step in heard.told if name == "train/loss"]  # noqa: E731
    assert steps(before) == [1, 2, 3, 4, 5]
    assert steps(after) == ([4, 5, 6, 7, 8, 9] if exact else [6, 7, 8, 9])
    assert [step for name, step in before.told + after.told if name == "epoch/val_loss"] == [3, 6, 9]
    assert after.ends == [True]


def test_a_tracker_that_fails_takes_nothing_with_it(whole, tiny_data, tmp_path, monkeypatch):
    tracker, console = Heard(False, fails_at=4), Lines()
    hear(monkeypatch, tracker)
    run = train(tiny_data, output=tmp_path / "run", console=console, **WORDS)
    assert run.record()["status"] == "finished"
    assert run.metrics.read_bytes() == whole[0].metrics.read_bytes()
    assert {step for _, step in tracker.told} == {1, 2, 3} and tracker.ends == []
    assert sum("the server went away" in line for line in console.lines) == 1


def test_names_of_trackers():
    assert trackers.named("") == ("tensorboard",) == trackers.named(("tensorboard",))
    with pytest.raises(UnknownName) as caught:
        trackers.named("tensorbord")
    assert caught.value.near == ["tensorboard"]


@pytest.mark.parametrize("name", ["wandb", "swanlab", "mlflow"])
def test_a_missing_tracker_is_said_before_there_is_a_run(tiny_data, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None if package == name else object())
    with pytest.raises(MissingPackage):
        trackers.named([name])
    arguments = ["train", str(tiny_data), "--track", name, "--output", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert f"pip install 'fromzero[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_each_tracker_keeps_the_contract():
    import importlib

    for name in trackers.known():
        file = importlib.import_module(f"fromzero.trackers.{name}")
        assert name == file.PACKAGE and callable(file.start)


def test_what_is_told_of_a_run_names_no_folder(tiny_run, tiny_data):
    told = json.dumps(trackers.settings(tiny_run), ensure_ascii=False)
    assert str(tiny_data.parent) not in told and str(tiny_run.path.parent) not in told
    assert json.loads(told)["lr"] == tiny_run.plan().recipe.lr


def test_mlflow_hears_each_point_once(tiny_data, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = killed(tiny_data, tmp_path / "run", monkeypatch, 5)
    resume(run.path)
    kept = run.record()["tracked"]["mlflow"]
    history = mlflow.MlflowClient(kept["where"]).get_metric_history(kept["id"], "train/loss")
    assert [each.step for each in history] == [*range(1, 10)]


def test_an_event_file_keeps_what_came_before(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    from fromzero.trackers.tensorboard import _cut

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(10):
            writer.add_scalar("train/loss", torch.tensor(step / 10), step)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    _cut(path, 20)
    assert path.read_bytes() == before  # nothing to take out: not written again
    path.write_bytes(before[:-5])  # cut off by a crash
    _cut(path, 20)
    assert path.read_bytes() == before[: len(path.read_bytes())] and len(path.read_bytes()) < len(before)
    _cut(path, 3)
    found = []
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for event in EventFileLoader(str(path)).Load():
        found += [event.step for _ in event.summary.value]
    assert found == [0, 1, 2, 3]
