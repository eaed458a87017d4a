"""Quick answers for common operators on `meta` tensors: what PyTorch's own kernels there give, without the Python they
run for it. Most of a trace's time is such Python. A shortcut answers only the plain case and leaves the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Answer = Callable[[Sequence[Any], dict[str, Any]], Any]


def shortcut(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What operator `name` returns, or NotImplemented where its own kernel must tell."""
    answer = _ANSWERS.get(name)
    if answer is None or kwargs or not all(each.is_meta for each in tensors_in(args)):
        return NotImplemented  # real numbers must be computed
    return answer(args, kwargs)


def empty_like(tensor: Tensor) -> Tensor:
    """`torch.empty_like`, which on `meta` is written in Python itself, without it for the usual layout."""
    return tensor.new_empty(tensor.shape) if tensor.is_contiguous() else torch.empty_like(tensor)


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors of nested lists, tuples and dicts, in order; `pytree`, which knows more, takes several times as
    long."""
    found: list[Tensor] = []
    for each in values.values() if isinstance(values, dict) else values:
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, (list, tuple, dict)):
            found += tensors_in(each)
    return found


def _like_first(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A new tensor like the first, if all tensors are alike: same shape, strides and floating type."""
    first = args[0]
    return empty_like(first) if _alike(first, args) else NotImplemented


def _in_place(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return args[0] if _alike(args[0], args) else NotImplemented


def _alike(first: Any, args: Sequence[Any]) -> bool:
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return False
    shape, strides, dtype = first.shape, first.stride(), first.dtype
    for each in args[1:]:
        if isinstance(each, Tensor):
            if each.dtype != dtype:
                return False
            if (each.shape != shape or each.stride() != strides) and not _spreads(each, first):
                return False
        elif isinstance(each, complex):
            return False
    return first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))


def _spreads(each: Tensor, first: Tensor) -> bool:
    """Whether `each` broadcasts to the shape of a contiguous `first`, as a layer's weight does."""
    pairs = zip(reversed(each.shape), reversed(first.shape), strict=False)
    return each.dim() <= first.dim() and first.is_contiguous() and all(a in (1, b) for a, b in pairs)


def _product(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    one, other = args[:2]
    return one.new_empty((*one.shape[:-1], other.shape[-1])) if one.dtype == other.dtype else NotImplemented


def _sum_of_products(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return _product(args[1:3], kwargs) if args[0].dtype == args[1].dtype else NotImplemented


def _lists_in_place(args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    return None


def _lists(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return [empty_like(each) for each in args[0]]


def _layer_norm(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    x, shape = args[0], args[1]
    if not x.is_contiguous() or x.dtype not in _FLOATING:
        return NotImplemented
    rows = x.new_empty((*x.shape[: x.dim() - len(shape)], *[1] * len(shape)), dtype=torch.float32)
    return empty_like(x), rows, empty_like(rows)


def _layer_norm_backward(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    grad, x, weight, bias, wanted = args[0], args[1], args[5], args[6], args[7]
    if not (x.is_contiguous() and grad.is_contiguous()) or x.dtype not in _FLOATING:
        return NotImplemented
    given = (x, weight, bias)
    return tuple(empty_like(t) if asked and t is not None else None for t, asked in zip(given, wanted, strict=True))


_FLOATING = (torch.float16, torch.bfloat16, torch.float32)


_ANSWERS: dict[str, Answer] = {
    **dict.fromkeys("add sub mul div gelu silu relu tanh sigmoid exp neg".split(), _like_first),
    **dict.fromkeys("tanh_backward gelu_backward silu_backward sigmoid_backward".split(), _like_first),
    "threshold_backward": _like_first,
    **dict.fromkeys("add_ sub_ mul_ div_ relu_ silu_".split(), _in_place),
    "mm": _product,
    "addmm": _sum_of_products,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    **dict.fromkeys(
        """
        _foreach_add_ _foreach_mul_ _foreach_div_ _foreach_lerp_ _foreach_addcmul_ _foreach_addcdiv_ _foreach_sub_
        _foreach_sqrt_ _foreach_neg_ _foreach_zero_
        """.split(),
        _lists_in_place,
    ),
    **dict.fromkeys("_foreach_sqrt _foreach_mul _foreach_add _foreach_div _foreach_neg _foreach_sub".split(), _lists),
}  # fmt: skip
