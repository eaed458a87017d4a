"""PyTorch: answers from a run's best weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import MissingPackage
from fromzero.records import Preprocessing


def opens(path: Path) -> bool:
    return (path / "run.json").is_file()


def open_model(path: Path) -> TorchClassifier:
    """The classifier of a run: its best weights, or its last where no epoch was finished."""
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("torch", "train") from error
    from fromzero import checkpoint
    from fromzero.models.build import build
    from fromzero.models.deploy import Deployed
    from fromzero.runs import Run

    run = Run(path)
    plan, how = run.plan(), run.preprocessing()
    module = build(plan.workload.model, plan.workload.classes, how.channels, how.size)
    weights = run.best if checkpoint.exists(run.best) else run.last
    module.load_state_dict(checkpoint.load(weights, "model")[0]["model"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchClassifier(plan.workload.model, run.labels(), how, Deployed(module, how).to(device).eval())


class TorchClassifier:
    """A `Classifier` over a `models.deploy.Deployed` module; the caller puts it into eval mode."""

    def __init__(self, name: str, labels: tuple[str, ...], preprocessing: Preprocessing, module: Any) -> None:
        self.name, self.labels, self.preprocessing, self.module = name, labels, preprocessing, module

    def scores(self, batch: np.ndarray) -> np.ndarray:
        import torch

        device = next(self.module.parameters()).device
        with torch.inference_mode():
            return self.module(torch.tensor(batch, device=device)).cpu().numpy()


class HeadClassifier(TorchClassifier):
    """The same over a classifier's head alone: `scores` takes the features that it sees, float32 (N, ...)."""

    def scores(self, batch: np.ndarray) -> np.ndarray:
        import torch

        device = next(self.module.parameters()).device
        with torch.inference_mode():
            return torch.softmax(self.module(torch.tensor(batch, device=device)).float(), dim=-1).cpu().numpy()
