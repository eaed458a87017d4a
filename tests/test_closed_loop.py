"""Every run records what was predicted beside what was measured: on this CPU the two must agree."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MIB = 1 << 20


@pytest.mark.parametrize(
    ("model", "imgsz"),
    [("cnn", 256), *(pytest.param(name, 128, marks=pytest.mark.slow) for name in ("resnet18", "mobilenetv2_100"))],
    ids=["cnn", "resnet", "mobilenet"],
)
def test_memory_of_a_run_is_as_predicted(model, imgsz, tiny_data, tmp_path):
    """In a process of its own: what other tests have left in this one is no part of a run. The heap of a threaded
    process fragments by chance (one run in four shows a tenth more), so an unlucky run is repeated."""
    for attempt in range(3):
        predicted, measured, base = run_once(model, imgsz, tiny_data, tmp_path / str(attempt))
        assert measured - base > 40 * MIB  # the step itself must matter
        if predicted == pytest.approx(measured, rel=0.10):
            return
    pytest.fail(f"predicted {predicted / MIB:.0f} MiB, measured {measured / MIB:.0f}")


def run_once(model, imgsz, data, output):
    """Bytes predicted, measured at the peak, and held before the first step."""
    words = ["train", str(data), "--model", model, "--imgsz", str(imgsz), "--batch", "32", "--epochs", "1"]
    ran = subprocess.run(
        [sys.executable, "-m", "fromzero", *words, "--device", "cpu", "--output", str(output)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    record = json.loads((output / "run.json").read_text())
    measured = record["measured"]
    return record["predicted"]["memory"]["process_peak"], measured["process_peak"], measured["base"]
