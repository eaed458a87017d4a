"""What holds a step up is named; traces are read right; the profile of a run leaves the run as it was."""

import gzip
import json

import numpy as np
import pytest

pytest.importorskip("torch")

from fromzero.profiling import events, judging, nsight
from fromzero.profiling.noted import Function, Loading

# --- traces ---------------------------------------------------------------------------------------------------------


def event(name, start, length, kind="cpu_op", thread=1, **args):
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": length, "tid": thread, "args": args}


TRACE = [
    event(events.STEP, 0, 100, "user_annotation"),
    event("forward", 0, 50, "user_annotation"),
    event("net.py(3): forward", 1, 48, "python_function"),
    event("torch/nn/modules/module.py(9): _call_impl", 2, 46, "python_function"),
    event("aten::linear", 10, 30),
    event("aten::addmm", 12, 25),
    event("aten::copy_", 13, 5),
    event("aten::mm", 60, 20, thread=2),
    event("aten::add", 65, 5, thread=1),
]


def test_calls_lie_in_each_other():
    found = {call.name: call for call in events.calls(TRACE, ("cpu_op",))}
    assert found["aten::linear"].alone == 5 and found["aten::addmm"].alone == 20
    assert found["aten::copy_"].above == ("aten::linear", "aten::addmm")
    assert found["aten::mm"].above == () and found["aten::mm"].alone == 20


def test_time_without_operators():
    assert events.covered([(0, 4), (2, 6), (10, 11)]) == 7
    assert events.between(TRACE) == pytest.approx(0.5)  # 10 to 40 and 60 to 80
    on_card = [*TRACE, event("kernel", 20, 10, "kernel", 7)]
    assert events.between(on_card) == pytest.approx(0.9)


def test_time_by_the_planners_operators():
    found = events.by_operator(TRACE, {"addmm", "mm"})
    assert found == {"addmm": 25, "mm": 20, "linear": 5, "add": 5}
    numbered = [
        event("aten::addmm", 0, 9, **{"External id": 4}),
        event("gemm", 50, 3, "kernel", 7, **{"External id": 4}),
    ]
    assert events.by_operator(numbered, {"addmm"}) == {"addmm": 3}


def test_stacks_leave_out_what_only_passes_on():
    found = events.stacks(TRACE)
    assert found[("net.py:3 forward", "aten::linear", "aten::addmm", "aten::copy_")] == 5
    assert not any("_call_impl" in frame for stack in found for frame in stack)
    assert "net.py:3 forward;aten::linear;aten::addmm 20\n" in events.folded(found)


def test_memory_over_the_last_step(tmp_path):
    notes = [
        {"ph": "i", "name": "[memory]", "ts": at, "args": {"Bytes": size, "Device Type": 0}}
        for at, size in ((5, 100), (20, 50), (70, -120), (200, 999))
    ]
    path = tmp_path / "trace.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": TRACE + notes}, file)
    level = events.memory(events.read(path), ("forward",))
    assert max(level.bytes) == 150 and level.bytes[-1] == 30 and level.marks == ((0.0, "forward"),)


# --- the judgement --------------------------------------------------------------------------------------------------


def measured(**changes):
    parts = {"waiting": 0.0, "entering": 0.001, "forward": 0.05, "backward": 0.04, "clip": 0.001, "optimizer": 0.008}
    table = judging.operators({"aten::addmm": 4e4, "aten::mm": 4e4, "aten::relu": 1e4}, {"aten::addmm": 9}, 1)
    values = {
        "step": 0.1,
        "resident": 0.1,
        "parts": parts,
        "loading": Loading(batch=0.01, threads=2, cores=2, waiting=0.0),
        "between": 0.02,
        "tiny": 0.02,
        "tiny_calls": 10,
        "operators": table,
        "functions": [],
        "making": [],
        "batch": 32,
    }
    return judging.Measured(**{**values, **changes})


def test_a_healthy_step_is_called_so():
    found, others = judging.judge(measured())
    assert found.code == "compute" and not others


def test_each_share_names_its_bottleneck():
    loop = Function(name="slow", place="net.py:7", calls=1, seconds=0.06, own=True)
    copies = judging.operators({"aten::copy_": 6e4, "aten::mm": 4e4}, {}, 1)
    moves = judging.operators({"aten::relu": 4e4, "aten::add": 3e4, "aten::mm": 3e4}, {}, 1)
    sort = judging.operators({"aten::sort": 8e4, "aten::mm": 2e4}, {}, 1)
    many = judging.operators({"aten::mul": 1e4}, {"aten::mul": 3000}, 1)
    cases = {
        "loader": measured(step=0.3, loading=Loading(batch=0.3, threads=2, cores=2, waiting=0.2)),
        "python": measured(between=0.6, functions=[loop]),
        "overhead": measured(between=0.6, functions=[loop], operators=many),
        "optimizer": measured(parts={**measured().parts, "optimizer": 0.06}),
        "copies": measured(operators=copies),
        "memory": measured(operators=moves),
        "operator": measured(operators=sort),
        "entry": measured(parts={**measured().parts, "entering": 0.05}),
    }
    for code, given in cases.items():
        found, _ = judging.judge(given)
        assert found.code == code, (code, found)
        assert found.gain > 1 and found.text and found.fix
    assert "net.py:7" in judging.judge(cases["python"])[0].text
    assert judging.judge(cases["loader"])[0].gain == pytest.approx(3.0)


def test_the_larger_comes_first():
    found, others = judging.judge(measured(step=0.2, parts={**measured().parts, "optimizer": 0.06}))
    assert found.code == "loader" and [each.code for each in others] == ["optimizer"]


def test_nsight_runs_this_very_step(tmp_path):
    run = tmp_path / "a run"
    systems, compute = nsight.commands(run, run / "profile")
    for command in (systems, compute):
        assert f"fromzero profile '{run}' --under-nsight" in command
    assert "--capture-range=cudaProfilerApi" in systems and "--profile-from-start=off" in compute


def test_nsight_marks(tiny_run, monkeypatch):
    """On a card the steps lie between the profiler's marks, their phases in NVTX ranges; here at the boundary only."""
    import contextlib

    import torch

    from fromzero import training
    from fromzero.profiling import measuring
    from fromzero.terminal import Console

    said = []

    @contextlib.contextmanager
    def ranged(name):
        said.append(name)
        yield

    steps = measuring.Steps(training.opened(tiny_run, training.data_of(tiny_run), Console()))
    monkeypatch.setattr(torch.cuda.nvtx, "range", ranged)
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: said.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: said.append("stop"))
    monkeypatch.setattr(measuring, "_on_card", lambda steps: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    measuring.captured(steps)
    steps.close()
    assert said[0] == "start" and said[-1] == "stop" and said.count("step") == measuring.TRACED
    assert set(said) == {"start", "stop", "step", "forward", "backward", "clip", "optimizer"}


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_is_profiled_and_left_as_it_was(tiny_run, tmp_path, capsys):
    import shutil
    from xml.dom import minidom

    from PIL import Image

    from fromzero.cli import main

    path = tmp_path / "a run"
    shutil.copytree(tiny_run.path, path)

    def state():
        files = [each for each in path.rglob("*") if each.is_file() and "profile" not in each.parts]
        return {each: each.stat().st_mtime_ns for each in files}

    before = state()
    assert main(["profile", str(path), "--seconds", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert state() == before
    assert found["batch"] == 14 and found["step"] >= found["resident"] > 0
    assert sum(found["parts"].values()) == pytest.approx(found["step"], rel=0.2)
    assert found["bottleneck"]["text"] and 0 <= found["bottleneck"]["share"] < 1
    # what stays of the step, and what it takes: within a quarter of what the planner says
    assert 0.75 < found["peak"] / found["planned_peak"] < 1.3
    both = [each for each in found["deviations"] if each["measured"] and each["predicted"]]
    assert {"convolution", "convolution_backward"} <= {each["operator"] for each in both}
    folder = path / "profile"
    for name in ("time.png", "memory.png", "beside-plan.png"):
        assert np.asarray(Image.open(folder / name).convert("L")).std() > 10, name
    svg = minidom.parse(str(folder / "flame.svg"))
    names = [each.firstChild.data for each in svg.getElementsByTagName("title")]
    assert any(each.startswith("aten::") for each in names) and any("cnn.py" in each for each in names)
    trace = events.read(folder / "trace.json.gz")
    assert len(events.steps(trace)) == 1
    assert {str(folder / name) for name in ("nsight.sh", "python.prof", "profile.json")} <= set(found["files"])


SLOW = """
import torch


class Slow(torch.nn.Module):
    def __init__(self, classes, wide):
        super().__init__()
        self.wide = wide
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 1500), torch.nn.ReLU())
        self.more, self.head = torch.nn.Linear(1500, 1500), torch.nn.Linear(1500, classes)

    def forward(self, x):
        if not self.wide:
            return self.head(loop(x) + self.body(x))
        return self.head(self.more(self.body(x)))


def loop(x):
    total = 0
    for number in range(400_000):
        total += number % 3
    return 0 * total


def python(classes):
    return Slow(classes, False)


def optimizer(classes):
    return Slow(classes, True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["python", "optimizer", "loader"])
def test_what_was_planted_is_named(planted, tiny_data, tmp_path):
    from PIL import Image

    from fromzero.profiling.profiles import profile
    from fromzero.starting import train

    (tmp_path / "slow.py").write_text(SLOW)
    data, model, batch = tiny_data, f"{tmp_path / 'slow.py'}:{planted}", 1
    if planted == "loader":  # pictures of four megapixels, for a small network
        data, model, batch = tmp_path / "large", "cnn", 4
        for number in range(12):
            place = data / ("a", "b")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            small = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(small).resize((2400, 1800)).save(place / f"{number}.jpg", quality=90)
    run = train(data, model=model, imgsz=24, batch=batch, epochs=1, output=tmp_path / "run", device="cpu")
    found = profile(run.path, 0.5)
    assert found.bottleneck.code == planted, found.bottleneck.text
    if planted == "python":
        assert "loop" in found.bottleneck.text
