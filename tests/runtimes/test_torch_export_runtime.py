"""A program of torch.export answers as its run does, and runs nothing that a stranger put into it."""

import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest

from fromzero.errors import RunError, UnknownName, UsageError
from fromzero.exporting import export
from fromzero.predicting import open_classifier


@pytest.fixture(scope="module")
def program(tiny_run, tmp_path_factory):
    return export(tiny_run.path, "torch-export", tmp_path_factory.mktemp("program") / "程序").path


def changed(source, folder, change):
    copy = shutil.copytree(source, folder)
    change(copy / "model.pt2")
    about = json.loads((copy / "artifact.json").read_text(encoding="utf-8"))
    about["sha256"]["model.pt2"] = hashlib.sha256((copy / "model.pt2").read_bytes()).hexdigest()
    (copy / "artifact.json").write_text(json.dumps(about), encoding="utf-8")
    return copy


@pytest.mark.parametrize("count", [1, 3, 70])
def test_answers_as_the_run_does(program, tiny_run, count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    one, other = open_classifier(tiny_run.path).scores(pixels), open_classifier(program).scores(pixels)
    assert one.dtype == other.dtype == np.float32 and np.abs(one - other).max() < 1e-6


def test_names_no_place_of_the_machine_that_made_it(program, tiny_run):
    with zipfile.ZipFile(program / "model.pt2") as archive:
        content = b"".join(archive.read(each) for each in archive.namelist())
    for place in (__file__.rpartition("tests")[0], str(tiny_run.path)):
        assert place.encode() not in content


def test_what_would_be_unpickled_is_refused(program, tmp_path):
    def smuggle(file):
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("model/data/constants/opaque_obj_0", b"cos\nsystem\n(S'touch stolen'\ntR.")

    with pytest.raises(RunError) as caught:
        open_classifier(changed(program, tmp_path / "stolen", smuggle))
    assert caught.value.code == "artifact_damaged" and "opaque_obj_0" in caught.value.cause


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)], ids=["empty", "text", "nothing"])
def test_no_program(program, tmp_path, content):
    with pytest.raises(RunError) as caught:
        open_classifier(changed(program, tmp_path / "other", lambda file: file.write_bytes(content)))
    assert caught.value.code == "artifact_damaged"


def test_devices(program, tiny_run):
    import torch

    for path in (program, tiny_run.path):
        with pytest.raises(UnknownName):
            open_classifier(path, "gpu")
        if not torch.cuda.is_available():
            with pytest.raises(UsageError) as caught:
                open_classifier(path, "cuda")
            assert caught.value.code == "no_provider"
