"""The model as it is deployed: from what is loaded to probabilities, normalisation included.

Training, evaluation, export and serving share `Normalise`, so a model cannot meet other inputs than it learnt from.
"""

from __future__ import annotations

import torch
from torch import nn

from fromzero.records import Preprocessing


class Normalise(nn.Module):
    """uint8 (N, size, size, channels) -> float32 (N, channels, size, size), (pixel / 255 - mean) / std."""

    def __init__(self, how: Preprocessing) -> None:
        super().__init__()
        shape = (1, how.channels, 1, 1)
        self.register_buffer("scale", (1 / (255 * torch.tensor(how.std, dtype=torch.float64))).float().view(shape))
        shift = -torch.tensor(how.mean, dtype=torch.float64) / torch.tensor(how.std, dtype=torch.float64)
        self.register_buffer("shift", shift.float().view(shape))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        planes = pixels.permute(0, 3, 1, 2).contiguous()  # else one grey channel passes for channels-last
        return planes.to(self.scale.dtype) * self.scale + self.shift


class Deployed(nn.Module):
    """A batch as it is loaded -> probabilities (N, classes): the model behind its `entry`."""

    def __init__(self, model: nn.Module, entry: nn.Module) -> None:
        super().__init__()
        self.normalise = entry
        self.model = model

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        outputs = self.model(self.normalise(given))
        return torch.softmax(getattr(outputs, "logits", outputs).float(), dim=-1)
