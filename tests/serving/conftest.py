"""Small models that answer by rules a test can foresee."""

import time

import numpy as np
import pytest

from fromzero.records import Columns, Preprocessing


class Shade:
    """Pictures: dark or bright."""

    name, labels, task, device = "shade", ("dark", "bright"), "image", "cpu"
    preprocessing = Preprocessing(size=16, channels=1, crop=1.0, mean=(0.5,), std=(0.5,))

    def scores(self, batch):
        bright = batch.reshape(len(batch), -1).mean(1) / 255
        return np.stack([1 - bright, bright], 1).astype(np.float32)


class Threshold:
    """Rows: more than 0 is "high"."""

    name, labels, task, device = "threshold", ("low", "high"), "table", "cpu"
    preprocessing = Columns(numbers=(("size", 0.0, 1.0),), flagged=(), words=(("kind", ("a", "b")),))

    def scores(self, batch):
        high = (batch[:, 0] > 0).astype(np.float32) * 0.8 + 0.1
        return np.stack([1 - high, high], 1)


@pytest.fixture(scope="session")
def ready():
    """Gives a client back once its service has warmed up: while it rehearses, a large request can come too late."""

    def ready(client):
        for _ in range(500):
            if client.get("/readyz").status_code == 200:
                return client
            time.sleep(0.02)
        raise AssertionError("never ready")

    return ready


@pytest.fixture
def shade():
    return Shade()


@pytest.fixture
def threshold():
    return Threshold()
