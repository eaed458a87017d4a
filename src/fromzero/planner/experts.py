"""Mixtures of experts: products of groups of rows, whose lengths a router decides from numbers that `meta` has not.

Memory does not depend on the routing: all rows lie in one tensor. Time takes them as shared evenly among the experts,
which is what their balancing losses drive them to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def _nonzero(func: Any, args: Any, kwargs: Any) -> Any:
    """A mask selects everything: the most it can. Padding masks do in full batches; the tokens of one expert do not,
    so models that loop over experts get more than they take."""
    mask = args[0]
    if not mask.is_meta:
        return func(*args, **kwargs)
    return torch.empty_strided((mask.numel(), mask.dim()), (1, mask.numel()), dtype=torch.long, device=mask.device)


ANSWERS: dict[str, Callable[[Any, Any, Any], Any]] = {"_grouped_mm": _grouped, "nonzero": _nonzero}
