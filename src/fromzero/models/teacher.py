"""What a student learns from a teacher's answers beside the truth (Hinton, Vinyals and Dean 2015).

A step knows a batch as inputs and targets. The teacher sees the same inputs, varied as they are, and its logits travel
with the targets: so whatever divides a batch - micro-batches, cards - divides them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 4.0  # softens both, so that what the teacher thinks of the wrong classes counts
SHARE = 0.9  # of the loss that is the teacher's: the usual one of later work (Tian et al. 2020)


def with_answers(targets: Tensor, outputs: Any) -> Tensor:
    """Classes (N,) or shares of the classes (N, classes) beside the teacher's logits: (N, 2, classes)."""
    logits = getattr(outputs, "logits", outputs).float()
    shares = functional.one_hot(targets, logits.shape[1]) if targets.dim() == 1 else targets
    return torch.stack([shares.float(), logits], dim=1)


def taught(loss: Callable[[Any, Tensor], Tensor], *, mixed: bool) -> Callable[[Any, Tensor], Tensor]:
    """(1 - SHARE) of `loss` and SHARE of T^2 KL(teacher || student), both at temperature T, for targets as
    `with_answers` makes them; T^2 keeps the gradients as large as those of `loss`. `mixed` targets are shares."""

    def both(outputs: Any, targets: Tensor) -> Tensor:
        if targets.dim() < 3:  # nobody asked the teacher: the network is looked at by itself
            return loss(outputs, targets)
        shares, answers = targets.unbind(dim=1)
        student = functional.log_softmax(getattr(outputs, "logits", outputs).float() / TEMPERATURE, dim=-1)
        teacher = functional.log_softmax(answers / TEMPERATURE, dim=-1)
        distance = functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
        truth = loss(outputs, shares if mixed else shares.argmax(dim=1))
        return (1 - SHARE) * truth + SHARE * TEMPERATURE**2 * distance

    return both
