"""Running a trained classifier, from a run or an artifact, behind one contract.

Each file of this folder is one runtime: `opens(path) -> bool` says whether it takes a folder, `open_model(path)`
gives the classifier. Found by folder; they never import each other.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Classifier(Protocol):
    """A model that is ready to answer."""

    name: str  # for people: "cnn", "resnet50"
    labels: tuple[str, ...]
    task: str  # a file of tasks/
    preprocessing: Any  # the record that the task's `prepared` takes

    def scores(self, batch: np.ndarray) -> np.ndarray:
        """Samples as the task's `prepared` makes them, stacked - uint8 (N, size, size, channels) for pictures ->
        float32 (N, classes), each row a probability distribution over `labels`. Safe to call from several threads."""
        ...
