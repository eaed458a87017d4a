"""Mixtures of experts: products of groups of rows, whose lengths a router decides from numbers that `meta` has not.

Memory does not depend on the routing: all rows lie in one tensor. Time takes them as shared evenly among the experts,
which is what their balancing losses drive them to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor


def grouped_shape(left: Tensor, right: Tensor, ends: Tensor) -> tuple[int, ...]:
    """The shape of a grouped product. The groups, which end at `ends`, are of rows of a left (S, K) with right
    (G, K, N), of the depth of (M, S) and (S, N), or of columns of a right (K, S) with left (G, M, K)."""
    if left.dim() == right.dim() == 2:
        return (ends.size(0), left.size(0), right.size(1))
    return (*left.shape[-2:-1], right.size(-1)) if left.dim() != right.dim() else (*left.shape[:2], right.size(-1))


def _grouped(func: Any, args: Any, kwargs: Any) -> Tensor:
    """PyTorch's shape function refuses fp32, which its CUDA kernel takes (it loops over the groups)."""
    left, right, ends, *rest = [*args, *(None,) * 5][:5]
    ends = kwargs.get("offs", ends)
    dtype = kwargs.get("out_dtype") or (rest[1] if len(rest) > 1 else None) or left.dtype
    if ends is None:
        return torch.empty((*left.shape[:2], right.size(-1)), dtype=dtype, device=left.device)
    return torch.empty(grouped_shape(left, right, ends), dtype=dtype, device=left.device)


def everything_selected() -> Any:
    """A context in which a mask selects everything, the most it can: `meta` has no numbers to tell. Padding masks do in
    full batches; the tokens of one expert do not, so a model that loops over its experts gets more than it takes."""
    from torch.fx.experimental import _config

    return mock.patch.object(_config, "meta_nonzero_assume_all_nonzero", True)


ANSWERS: dict[str, Callable[[Any, Any, Any], Any]] = {"_grouped_mm": _grouped}
