"""What one operator costs: its kind, its floating-point operations and the bytes it moves.

`cost` reads an operator's arguments and results as the dispatcher saw them. Multiply-adds count as two operations.
Views and allocations cost nothing and give None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Cost:
    """`kind` is the kernel class the timing model knows; `dtype` the precision it computes in."""

    operator: str
    kind: str
    dtype: str
    flops: float
    bytes: float
    phase: str = ""


def cost(operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Cost | None:
    """The cost of calling `operator` with `args` and `kwargs` and getting `out`; None for what launches no kernel."""
    name = operator._schema.name.partition("::")[2]
    if operator.is_view or name in _FREE:
        return None
    inputs = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    outputs = [each for each in pytree.tree_leaves(out) if isinstance(each, Tensor)]
    if not inputs and not outputs:  # the profiler's own marks
        return None
    moved = sum(_bytes(each) for each in {id(t): t for t in inputs}.values())
    moved += sum(_bytes(each) for each in outputs)  # an in-place operator reads and writes
    floating = [each for each in inputs if each.is_floating_point()]
    dtype = str(floating[0].dtype).removeprefix("torch.") if floating else "other"
    if name in _COMPUTE:
        count, kind = _COMPUTE[name]
        return Cost(name, kind if isinstance(kind, str) else kind(args), dtype, count(args, out), moved)
    return Cost(name, _memory_kind(name), dtype, 0.0, moved)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# --- operators that compute ---------------------------------------------------------------------------------------


def _matrix(args: Sequence[Any], out: Any) -> float:
    return 2.0 * out.numel() * args[0].shape[-1]


def _matrix_plus(args: Sequence[Any], out: Any) -> float:
    return 2.0 * out.numel() * args[1].shape[-1]


def _convolution(args: Sequence[Any], out: Any) -> float:
    x, weight, transposed = args[0], args[1], args[6]
    positions = math.prod((x if transposed else out).shape[2:])
    return 2.0 * x.shape[0] * positions * weight.numel()


def _convolution_backward(args: Sequence[Any], out: Any) -> float:
    grad, x, weight, transposed, mask = args[0], args[1], args[2], args[7], args[10]
    positions = math.prod((x if transposed else grad).shape[2:])
    return 2.0 * x.shape[0] * positions * weight.numel() * (bool(mask[0]) + bool(mask[1]))


def _attention(args: Sequence[Any], out: Any) -> float:
    q, k, v = args[0], args[1], args[2]
    return 2.0 * math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _attention_backward(args: Sequence[Any], out: Any) -> float:
    return 2.5 * _attention(args[1:], out)  # five products against the two of the forward pass


def _convolution_kind(args: Sequence[Any]) -> str:
    return _kind_of(weight=args[1], groups=args[8])


def _convolution_backward_kind(args: Sequence[Any]) -> str:
    return _kind_of(weight=args[2], groups=args[9])


def _kind_of(weight: Tensor, groups: int) -> str:
    if groups > 1:
        return "depthwise" if weight.shape[1] == 1 else "grouped"
    return "conv" if math.prod(weight.shape[2:]) > 1 else "gemm"


_Count = Callable[[Sequence[Any], Any], float]
_COMPUTE: dict[str, tuple[_Count, Any]] = {
    "mm": (_matrix, "gemm"),
    "bmm": (_matrix, "bmm"),
    "addmm": (_matrix_plus, "gemm"),
    "baddbmm": (_matrix_plus, "bmm"),
    "convolution": (_convolution, _convolution_kind),
    "_convolution": (_convolution, _convolution_kind),
    "convolution_backward": (_convolution_backward, _convolution_backward_kind),
    "_scaled_dot_product_flash_attention": (_attention, "attention"),
    "_scaled_dot_product_flash_attention_backward": (_attention_backward, "attention"),
    "_scaled_dot_product_efficient_attention": (_attention, "attention"),
    "_scaled_dot_product_efficient_attention_backward": (_attention_backward, "attention"),
}

# --- operators that only move data --------------------------------------------------------------------------------

_FREE = frozenset(
    """
    empty empty_like empty_strided new_empty new_empty_strided detach alias _unsafe_view _reshape_alias lift_fresh
    set_ resize_ scalar_tensor _local_scalar_dense is_same_size
    """.split()
)


def _memory_kind(name: str) -> str:
    if name.startswith(("_foreach", "_fused_adam", "_fused_sgd", "_amp_foreach")):
        return "optimizer"
    if "norm" in name and "vector" not in name:
        return "norm"
    if "softmax" in name:
        return "softmax"
    if "pool" in name:
        return "pool"
    return "elementwise"
