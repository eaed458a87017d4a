"""Running a trained model, from a run or an artifact, behind one contract.

Each file of this folder is one runtime, found by folder; they never import each other. Each has:

opens(path) -> bool                          whether it takes this folder
open_model(path, device, threads)            the Classifier in it. `device` is "auto", "cpu" or "cuda" (and what else
                                             the runtime knows); `threads` compute one batch, None for every core that
                                             may be used. Raises UsageError for a device that is not there
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Classifier(Protocol):
    """A model that is ready to answer."""

    name: str  # for people: "cnn", "resnet50"
    labels: tuple[str, ...]
    task: str  # a file of tasks/
    preprocessing: Any  # the record that `data.inputs.prepared` takes

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda" or "tensorrt"."""
        ...

    def scores(self, batch: np.ndarray) -> np.ndarray:
        """Samples as `data.inputs.prepared` makes them, stacked - uint8 (N, size, size, channels) for pictures, int64
        (N, length) for texts, float32 (N, values) or (N, window, values) for tables -> float32 (N, classes), each row a
        probability distribution over `labels`. Of a language model (N, length, vocabulary), of the token after each.
        Safe to call from several threads."""
        ...
