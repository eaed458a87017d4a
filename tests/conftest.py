"""What several test files need: a small data set of real files, and a small run trained on it."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client: no test may reach a network
os.environ["FROMZERO_LANG"] = "en"
os.environ["FROMZERO_STATE"] = os.path.join(os.devnull, "state")  # nothing learnt on this machine is read or written

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # from a shell's background, and handed down to what tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

CLASSES = ("小 狗", "猫", "鸟 & 鱼")
TINTS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


@pytest.fixture(autouse=True)
def _english():
    """Sentences are compared in English; a test that switches the language must not leak."""
    from fromzero import language

    yield
    language.use(None)


def _once(tmp_path_factory, name, make):
    """What `make(folder)` puts into a folder, made by the first process of the session that needs it."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with FileLock(f"{place}.lock"):
        if not (place / "done").is_file():
            make(place)
            (place / "done").touch()
    return place


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """60 colour pictures of 24 x 24 in three classes that differ in tint; the same in every session. Tests that
    change it must copy it first."""

    def make(place):
        rng = np.random.default_rng(7)
        for name, tint in zip(CLASSES, TINTS, strict=True):
            folder = place / "数据 data" / name
            folder.mkdir(parents=True)
            for number in range(20):
                noise = rng.normal(0, 40, (24, 24, 3))
                array = np.clip(np.array(tint) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(array).save(folder / f"图 {number:02d}.png")

    return _once(tmp_path_factory, "tiny", make) / "数据 data"


@pytest.fixture(scope="session")
def tiny_run(tiny_data, tmp_path_factory):
    """A finished run of one epoch on `tiny_data`. Tests that write into it must copy it first."""
    from fromzero.runs import Run

    def make(place):
        from fromzero.starting import train

        train(tiny_data, model="cnn", output=place / "tiny", epochs=1, batch=14, device="cpu", seed=3)

    return Run(_once(tmp_path_factory, "runs", make) / "tiny")


@pytest.fixture(scope="session")
def tiny_artifact(tiny_run, tmp_path_factory):
    """`tiny_run` exported to ONNX. Tests that change it must copy it first."""
    from fromzero.exporting import export

    return _once(tmp_path_factory, "导出", lambda place: export(tiny_run.path, output=place / "artifact onnx")) / (
        "artifact onnx"
    )
