"""A TFLite artifact answers as its run does; needs litert-torch, which has an environment of its own."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fromzero.errors import RunError, UnknownName, UsageError
from fromzero.exporting import export
from fromzero.predicting import open_classifier, predict

pytest.importorskip("litert_torch")


@pytest.fixture(scope="module")
def lite(tiny_run, tmp_path_factory):
    return export(tiny_run.path, "tflite", tmp_path_factory.mktemp("lite") / "artifact").path


def test_answers_as_the_run_does_from_several_threads(lite, tiny_run):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 24, 3), dtype=np.uint8)
    run, artifact = open_classifier(tiny_run.path), open_classifier(lite, threads=1)
    wanted = run.scores(pixels)
    assert np.abs(artifact.scores(pixels) - wanted).max() < 1e-5
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(artifact.scores, np.split(pixels, 10)))
    assert np.abs(np.concatenate(found) - wanted).max() < 1e-5


def test_predicts_files(lite, tiny_data):
    image = sorted(tiny_data.rglob("*.png"))[0]
    assert predict(lite, [image])[0][0].label == image.parent.name


def test_damage_and_devices(lite, tmp_path):
    for device, kind in (("cuda", UsageError), ("gpu", UnknownName)):
        with pytest.raises(kind):
            open_classifier(lite, device)
    (lite / "model.tflite").write_bytes(b"no model")
    with pytest.raises(RunError) as caught:
        open_classifier(lite)
    assert caught.value.code == "artifact_changed"
    about = json.loads((lite / "artifact.json").read_text(encoding="utf-8"))
    about["sha256"]["model.tflite"] = hashlib.sha256(b"no model").hexdigest()
    (lite / "artifact.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(RunError) as caught:
        open_classifier(lite)
    assert caught.value.code == "artifact_damaged"
