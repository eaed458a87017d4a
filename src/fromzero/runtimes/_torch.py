"""What the runtimes that compute with PyTorch have in common. Imports it when it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from fromzero.errors import UnknownName, UsageError

DEVICES = ("auto", "cpu", "cuda")


class TorchClassifier:
    """A `Classifier` over a `models.deploy.Deployed` module, or a program exported from one; the caller puts it into
    eval mode."""

    def __init__(
        self, name: str, labels: tuple[str, ...], preprocessing: Any, module: Any, task: str = "image"
    ) -> None:
        self.name, self.labels, self.preprocessing, self.module, self.task = name, labels, preprocessing, module, task

    @property
    def device(self) -> str:
        return str(next(self.module.parameters()).device.type)

    def scores(self, batch: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            answer = self.module(torch.tensor(batch, device=self.device))
            return (torch.softmax(answer, -1) if self.task == "lm" else answer).cpu().numpy()


def device_of(device: str) -> str:
    """ "cpu" or "cuda". Raises UsageError for a GPU that PyTorch does not see."""
    import torch

    if device not in DEVICES:
        raise UnknownName("device", device, DEVICES)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no_provider", device=device, known="cpu")
    return device
