"""Every run records what was predicted beside what was measured: on this CPU the two must agree."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MIB = 1 << 20


@pytest.mark.parametrize(
    ("model", "imgsz"), [("cnn", 256), ("resnet18", 128), ("mobilenetv2_100", 128)], ids=["cnn", "resnet", "mobilenet"]
)
def test_memory_of_a_run_is_as_predicted(model, imgsz, tiny_data, tmp_path):
    """In a process of its own: what other tests have left in this one is no part of a run."""
    words = ["train", str(tiny_data), "--model", model, "--imgsz", str(imgsz), "--batch", "32", "--epochs", "1"]
    ran = subprocess.run(
        [sys.executable, "-m", "fromzero", *words, "--device", "cpu", "--output", str(tmp_path / "run")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    predicted, measured = record["predicted"]["memory"]["process_peak"], record["measured"]["process_peak"]
    assert measured - record["measured"]["base"] > 40 * MIB  # the step itself must matter
    assert predicted == pytest.approx(measured, rel=0.10), (predicted / MIB, measured / MIB)
