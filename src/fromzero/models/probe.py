"""A new head fitted alone, on the features of trained weights, before anything else learns.

A head that starts at random sends its errors down into weights that were good. Fitted first, it leaves them little to
correct (linear probing, then fine-tuning: Kumar et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fromzero.errors import UsageError
from fromzero.models.layers import MlpHead, heads

ITERATIONS = 100  # of L-BFGS, which ends earlier where nothing moves any more


def only_head(model: nn.Module) -> nn.Module:
    """The one classifier of `model`. Raises UsageError where there are several, or one that reads maps."""
    found = heads(model)
    if len(found) != 1 or not isinstance(found[0], (nn.Linear, MlpHead)):
        kinds = ", ".join(type(each).__name__ for each in found)
        raise UsageError("probe_one_head", kinds=kinds)
    return found[0]


def fit_head(
    head: nn.Module, features: Tensor, targets: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor]
) -> tuple[float, float]:
    """Fit `head` in place to `features` (N, ...) and `targets` (N,): the minimum of the mean loss and 1/2N of its
    matrices' squares, scikit-learn's default for logistic regression. Returns the mean loss before and after."""
    learning = [each for each in head.parameters() if each.requires_grad]
    matrices = [each for each in learning if each.dim() > 1]
    optimizer = torch.optim.LBFGS(learning, max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    head.eval()
    with torch.no_grad():
        before = float(loss_of(head(features), targets))

    def closure() -> Tensor:
        optimizer.zero_grad()
        decay = sum((each.square().sum() for each in matrices), torch.zeros((), device=features.device))
        loss = loss_of(head(features), targets) + decay / (2 * len(features))
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        return before, float(loss_of(head(features), targets))
