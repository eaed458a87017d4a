"""Make `meta` tensors take the choices CUDA would take, on any build of PyTorch.

Two things differ between a step on `meta` tensors and the same step on a card: composite operators whose
decomposition depends on the device (dropout, batch norm, attention, rms norm), and autocast, which switches itself
off without a device. Both are emulated while `cuda_choices` is active: kernels for the first are registered on the
`AutogradMeta` dispatch key, CUDA's autocast policy on the autocast key of the unused private backend.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fromzero.planner import policy

aten = torch.ops.aten
CASTABLE = (torch.float16, torch.bfloat16, torch.float32)  # float64 is never cast
_KEY_NAME = "AutocastPrivateUse1"  # falls through everywhere unless a private backend is loaded
_HALF = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def cuda_choices(capability: tuple[int, int], attention: str = "auto") -> Iterator[Callable[[torch.dtype], Any]]:
    """Inside, operators on `meta` tensors decompose as on a card of `capability`; yields the `autocast(dtype)` context
    that stands in for `torch.autocast("cuda", dtype)`. `attention` forces a backend: auto, math, efficient or flash."""
    autocast = _Autocast()
    aten_library = torch.library.Library("aten", "IMPL")
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(torch.library.fallthrough_kernel, _KEY_NAME)
    try:
        for operator, kernel in _decompositions(capability, attention):
            aten_library.impl(operator, kernel, "AutogradMeta")
        for operator, kernel in autocast.kernels():
            aten_library.impl(operator, kernel, _KEY_NAME)
        yield autocast.on
    finally:
        aten_library._destroy()
        fallback._destroy()


def operator_named(name: str) -> Any:
    """The aten overload called `name` ("pow.Scalar", "mm"), or None where this PyTorch has no such operator."""
    packet, _, overload = name.partition(".")
    found = getattr(aten, packet, None)
    return None if found is None else getattr(found, overload or "default", None)


# --- operators whose decomposition depends on the device ---------------------------------------------------------


def _decompositions(capability: tuple[int, int], attention: str) -> list[tuple[Any, Callable[..., Any]]]:
    rules: dict[str, Callable[..., Any]] = {
        "dropout": _dropout,
        "batch_norm": _batch_norm,
        "scaled_dot_product_attention": _attention_for(capability, attention),
    }
    if hasattr(aten, "_fused_rms_norm"):
        rules["rms_norm"] = lambda x, shape, weight=None, eps=None: _RmsNorm.apply(x, weight, len(shape))
    return [(operator_named(name), kernel) for name, kernel in rules.items()]


def _dropout(x: Tensor, p: float, train: bool) -> Tensor:
    """CUDA keeps a mask of one byte an element."""
    if p == 0 or not train or x.numel() == 0:
        return x
    if p < 1:
        return aten.native_dropout(x, p, True)[0]
    return x * torch.zeros((), dtype=x.dtype, device=x.device)


def _batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn_enabled) -> Tensor:
    """cuDNN's kernel where cuDNN takes the case (it saves two fp32 vectors), else PyTorch's own."""
    statistics = mean is not None and var is not None
    cudnn = (
        cudnn_enabled
        and x.dtype != torch.bfloat16
        and weight is not None
        and bias is not None
        and weight.dtype == torch.float32
        and (statistics or (mean is None and var is None and training))
        and (x.dim() != 2 or x.size(0) <= 131070 or not training)
        and eps >= 1e-5
        and x.numel() > 0
    )
    if not cudnn:
        return aten.native_batch_norm(x, weight, bias, mean, var, training, momentum, eps)[0]
    strided = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    x = x.contiguous(memory_format=torch.channels_last if strided else torch.contiguous_format)
    return aten.cudnn_batch_norm(x, weight, bias, mean, var, training, momentum, eps)[0]


def _attention_for(capability: tuple[int, int], forced: str) -> Callable[..., Tensor]:
    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
        if enable_gqa and q.size(-3) != k.size(-3):
            repeats = q.size(-3) // k.size(-3)
            k, v = k.repeat_interleave(repeats, -3), v.repeat_interleave(repeats, -3)
        backend = _attention_backend(q, v, attn_mask, capability) if forced == "auto" else forced
        if backend == "flash":
            return _flash_attention(q, k, v, dropout_p, is_causal, scale)
        if backend == "efficient":
            needs_grad = torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v))
            return aten._scaled_dot_product_efficient_attention(
                q, k, v, attn_mask, needs_grad, dropout_p, is_causal, scale=scale
            )[0]
        return aten._scaled_dot_product_attention_math(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)[0]

    return attention


def _attention_backend(q: Tensor, v: Tensor, mask: Tensor | None, capability: tuple[int, int]) -> str:
    if q.dim() != 4:
        return "math"
    flash_takes_it = mask is None and q.size(-1) <= 256 and q.size(-1) == v.size(-1)
    if q.dtype in _HALF and capability >= (8, 0) and flash_takes_it:
        return "flash"
    return "efficient" if q.dtype in CASTABLE else "math"


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float, is_causal: bool, scale: float | None) -> Tensor:
    head = q.size(-1)
    padding = -head % 8  # the kernel wants head sizes in multiples of 8
    if padding:
        q, k, v = (torch.nn.functional.pad(each, (0, padding)) for each in (q, k, v))
    scale = scale or 1 / math.sqrt(head)
    out = aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    return out[..., :head] if padding else out


class _RmsNorm(torch.autograd.Function):
    """The fused kernel: saves its input and one fp32 number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, dims: int) -> Tensor:
        x = x.contiguous()
        row = x.new_empty((*x.shape[:-dims], *[1] * dims), dtype=torch.float32)
        ctx.save_for_backward(x, weight, row)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, _ = ctx.saved_tensors
        grads[0].contiguous()
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight), None


# --- CUDA's autocast policy ---------------------------------------------------------------------------------------


class _Autocast:
    """CUDA's autocast on the private backend's key; casts of fp32 leaves are cached until the context ends."""

    def __init__(self) -> None:
        self._key = torch._C._dispatch_key_parse(_KEY_NAME)
        self._keys = torch._C.DispatchKeySet(self._key)
        self._lower = torch.float16
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    @contextlib.contextmanager
    def on(self, dtype: torch.dtype) -> Iterator[None]:
        self._lower = dtype
        torch.set_autocast_enabled("privateuseone", True)  # clears the key from the thread's excluded set
        try:
            with torch._C._IncludeDispatchKeyGuard(self._key):
                yield
        finally:
            self._cache.clear()
            torch.set_autocast_enabled("privateuseone", False)

    def kernels(self) -> Iterator[tuple[Any, Callable[..., Any]]]:
        groups = (
            (policy.LOWER, self._in_lower),
            (policy.FULL, self._in_full),
            (policy.FULL_RESULT, self._with_full_result),
            (policy.WIDEST, self._in_widest),
        )
        for names, wrap in groups:
            for operator in filter(None, map(operator_named, names)):
                yield operator, wrap(operator)

    def _outside(self) -> Any:
        return torch._C._ExcludeDispatchKeyGuard(self._keys)

    def _in_lower(self, operator: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(operator, args, kwargs, self._lower)

    def _in_full(self, operator: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(operator, args, kwargs, torch.float32)

    def _in_widest(self, operator: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            dtypes = {each.dtype for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
            if not dtypes & set(CASTABLE):
                with self._outside():
                    return operator(*args, **kwargs)
            return self._call(operator, args, kwargs, torch.float32 if torch.float32 in dtypes else self._lower)

        return kernel

    def _with_full_result(self, operator: Any) -> Callable[..., Any]:
        position = [each.name for each in operator._schema.arguments].index("dtype")

        def kernel(*args: Any, **kwargs: Any) -> Any:
            given = kwargs.get("dtype") or (args[position] if len(args) > position else None)
            if args[0].dtype in CASTABLE and given is None:
                args, kwargs = args[:position], {**kwargs, "dtype": torch.float32}
            with self._outside():
                return operator(*args, **kwargs)

        return kernel

    def _call(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any], dtype: torch.dtype) -> Any:
        with self._outside():
            # C++ evaluates the wrapper's arguments right to left, which decides the order of the casts
            args = [self._cast(each, dtype) for each in reversed(args)][::-1]
            return operator(*args, **{name: self._cast(each, dtype) for name, each in kwargs.items()})

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(each, dtype) for each in value)
        if not isinstance(value, Tensor) or value.device.type != "meta" or value.dtype not in CASTABLE:
            return value
        if value.dtype == dtype:
            return value
        leaf = value.dtype == torch.float32 and value.requires_grad and value.is_leaf and not value._is_view()
        if dtype == torch.float32 or not leaf:
            return value.to(dtype)
        if id(value) not in self._cache:
            self._cache[id(value)] = (value, value.to(dtype))
        return self._cache[id(value)][1]
