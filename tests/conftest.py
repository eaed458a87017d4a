"""What several test files need: a small data set of real files, and a small run trained on it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client: no test may reach a network
os.environ["FROMZERO_LANG"] = "en"

import numpy as np
import pytest
from PIL import Image

CLASSES = ("小 狗", "猫", "鸟 & 鱼")
TINTS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


@pytest.fixture(autouse=True)
def _english():
    """Sentences are compared in English; a test that switches the language must not leak."""
    from fromzero import language

    yield
    language.use(None)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """60 colour pictures of 24 x 24 in three classes that differ in tint; the same in every session."""
    root = tmp_path_factory.mktemp("tiny") / "数据 data"
    rng = np.random.default_rng(7)
    for name, tint in zip(CLASSES, TINTS, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(20):
            noise = rng.normal(0, 40, (24, 24, 3))
            array = np.clip(np.array(tint) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(array).save(root / name / f"图 {number:02d}.png")
    return root


@pytest.fixture(scope="session")
def tiny_run(tiny_data, tmp_path_factory):
    """A finished run of one epoch. Tests that write into it must copy it first."""
    from fromzero.training import train

    return train(
        tiny_data,
        model="cnn",
        output=tmp_path_factory.mktemp("runs") / "tiny",
        epochs=1,
        batch=14,
        device="cpu",
        seed=3,
    )
