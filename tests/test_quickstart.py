"""The main job, end to end, on a part of the real data: what `make quickstart` does, smaller."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fromzero.data.sources.get import get
from fromzero.errors import SourceError

ROOT = Path(__file__).resolve().parents[1]
PER_CLASS = {"train": 60, "test": 12}


@pytest.fixture(scope="module")
def subset(tmp_path_factory):
    """Sixty training and twelve test pictures of each class of Fashion-MNIST."""
    try:
        there = ROOT / "data" / "fashion-mnist"
        whole = get("fashion-mnist", there if there.is_dir() else tmp_path_factory.mktemp("whole") / "fashion-mnist")
    except SourceError as error:
        pytest.skip(f"Fashion-MNIST is not to be had here: {error}")
    part = tmp_path_factory.mktemp("part")
    for split, count in PER_CLASS.items():
        for folder in sorted((whole / split).iterdir()):
            (part / split / folder.name).mkdir(parents=True)
            for picture in sorted(folder.glob("*.png"))[:count]:
                shutil.copy(picture, part / split / folder.name)
    return part


def test_the_whole_path(subset, tmp_path):
    command = [sys.executable, "-m", "fromzero", "quickstart", "--data", str(subset), "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--epochs", "3", "--batch", "32", "--uploads", "40", "--json"],
        capture_output=True, text=True, timeout=240, env={**os.environ, "FROMZERO_LANG": "en"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for stage in range(1, 8):
        assert f"[{stage}/7]" in done.stderr
    found = json.loads(done.stdout)
    cards = [plan["card"]["name"] for plan in found["plans"]]
    assert cards[1:] == ["NVIDIA GeForce GTX 1080 Ti", "NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 4090"]
    assert all(plan["verdict"] == "fits" and plan["max_batch"] >= 1 for plan in found["plans"])
    assert found["evaluation"]["split"] == "test" and found["evaluation"]["samples"] == 120
    assert found["evaluation"]["accuracy"] > 0.4  # ten classes, 18 steps
    assert found["artifact"]["parity"]["agreement"] == 1.0
    assert found["served"]["uploads"] == found["served"]["equal"] == 40
    run = tmp_path / "run"
    for name in ("plan.json", "run.json", "metrics.csv", "evaluation.json", "report.html", "figures/confusion.png"):
        assert (run / name).is_file(), name
    assert (run / "artifact-onnx" / "artifact.json").is_file()


@pytest.mark.slow
def test_resnet_from_timm_walks_the_same_path(subset, tmp_path):
    """Another family and another size: nothing on the path is made for one network."""
    from fromzero.exporting import export
    from fromzero.predicting import predict
    from fromzero.starting import train

    run = train(subset, model="resnet10t", output=tmp_path / "run", imgsz=32, epochs=1, batch=32)
    artifact = export(run.path)
    picture = next((subset / "test" / "Bag").glob("*.png"))
    [local], [exported] = predict(run.path, [picture]), predict(artifact.path, [picture])
    assert [each.label for each in local] == [each.label for each in exported]
