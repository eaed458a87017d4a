"""Make `meta` tensors take the choices CUDA would take, on any build of PyTorch.

Three things differ between a step on `meta` tensors and the same step on a card: composite operators whose
decomposition depends on the device (dropout, batch norm, attention, rms norm, recurrent layers), autocast, which
switches itself off without a device, and code that asks a tensor where it is. All are emulated while `cuda_choices` is
active: kernels for the first are registered on the `AutogradMeta` dispatch key, CUDA's autocast policy on the autocast
key of the unused private backend, which every `torch.autocast("cuda")` switches, and tensors on `meta` answer "cuda".
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fromzero.planner import experts, policy, rnn

aten = torch.ops.aten
CASTABLE = (torch.float16, torch.bfloat16, torch.float32)  # float64 is never cast
_KEY_NAME = "AutocastPrivateUse1"  # falls through everywhere unless a private backend is loaded
_CUDA = torch.device("cuda", 0)
_MAJOR, _MINOR = torch.__version__.split(".")[:2]
_RELEASE = (int(_MAJOR), int(_MINOR))


@contextlib.contextmanager
def cuda_choices(capability: tuple[int, int], attention: str = "auto") -> Iterator[Callable[[torch.dtype], Any]]:
    """Inside, operators on `meta` tensors decompose as on a card of `capability`; yields the `autocast(dtype)` context
    of a step. `attention` forces a backend: auto, math, efficient or flash."""
    autocast = _Autocast()
    rules = [*_decompositions(capability, attention), *rnn.cuda_kernels()]
    asked = mock.patch.object(torch.cuda, "get_device_capability", lambda *args: capability)
    selected = experts.everything_selected()
    with (
        _registered(rules, autocast.kernels()),
        autocast.follows_torch(),
        asked,
        selected,
        _OnCuda(),
    ):
        yield lambda dtype: torch.autocast("cuda", dtype)


@contextlib.contextmanager
def cpu_choices() -> Iterator[Callable[[torch.dtype], Any]]:
    """Inside, operators on `meta` tensors decompose as on a CPU with oneDNN, and fused optimizers take them for it."""
    optimizers = importlib.import_module("torch.optim.optimizer")  # no attribute of torch.optim
    known = [*optimizers._get_fused_kernels_supported_devices(), "meta"]
    as_cpu = mock.patch.object(optimizers, "_get_fused_kernels_supported_devices", lambda: list(known))
    with as_cpu, _registered(rnn.cpu_kernels(), ()):
        yield lambda dtype: torch.autocast("cpu", dtype)


_Kernel = tuple[Any, Callable[..., Any]]


@contextlib.contextmanager
def _registered(decompositions: Iterable[_Kernel], autocast: Iterable[_Kernel]) -> Iterator[None]:
    kernels = torch.library.Library("aten", "IMPL")
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(torch.library.fallthrough_kernel, _KEY_NAME)
    try:
        for key, rules in (("AutogradMeta", decompositions), (_KEY_NAME, autocast)):
            for operator, kernel in rules:
                kernels.impl(operator, kernel, key)
        yield
    finally:
        kernels._destroy()
        fallback._destroy()


def operator_named(name: str) -> Any:
    """The aten overload called `name` ("pow.Scalar", "mm"), or None where this PyTorch has no such operator."""
    packet, _, overload = name.partition(".")
    found = getattr(aten, packet, None)
    return None if found is None else getattr(found, overload or "default", None)


# --- code that asks a tensor where it is -----------------------------------------------------------------------------


class _OnCuda(TorchFunctionMode):
    """Python code sees `meta` tensors as on "cuda:0" and what it puts there comes to `meta`. Models choose by it (a
    region without autocast, a data type), and so do checkpointing, fused optimizers and gradient scaling. `is_meta`
    stays true: the tracer asks for that."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ASKS and args[0].is_meta:
            return _ASKS[func]
        if func is Tensor.backward:  # what checkpointing recomputes is the model's code again
            with self:
                return _backward(*args, **kwargs)
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = (args[0], *map(_to_meta, args[1:]))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _to_meta(kwargs["device"])}
        return func(*args, **kwargs)


_ASKS: dict[Any, Any] = {Tensor.device.__get__: _CUDA, Tensor.is_cuda.__get__: True, Tensor.get_device: 0}


def _backward(
    loss: Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
) -> None:
    torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)


def _to_meta(device: Any) -> Any:
    if isinstance(device, torch.device):
        return torch.device("meta") if device.type == "cuda" else device
    return "meta" if isinstance(device, str) and device.startswith("cuda") else device


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
        if _RELEASE >= (2, 14) and q.dim() == k.dim() == v.dim() == 3:  # the batch may be left out
            return attention(
                q[None], k[None], v[None], _as_four(attn_mask), dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        backend = forced
        if forced == "auto":
            backend = attention_backend(q, k, v, attn_mask, dropout_p, is_causal, enable_gqa, capability)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, torch.empty((), dtype=q.dtype, device=q.device))
        needs_grad = torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v))
        if backend == "flash":
            return _flash_attention(q, k, v, dropout_p, is_causal, scale)
        if backend == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(
                q, k, v, attn_mask, needs_grad, dropout_p, is_causal, False, scale=scale
            )[0]
        if backend == "efficient":
            return aten._scaled_dot_product_efficient_attention(
                q, k, v, _expanded(attn_mask, q, k), needs_grad, dropout_p, is_causal, scale=scale
            )[0]
        if forced == "math":
            return _written_out(q, k, v, attn_mask, dropout_p, scale)
        return aten._scaled_dot_product_attention_math(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]

    return attention


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float, scale: float | None) -> Tensor:
    """Attention as models wrote it out before torch 2, which is what `math` asked for by name stands for: products in
    the inputs' precision, the softmax between them in fp32 under autocast, which keeps the scores twice. (Where torch
    falls back to its own math kernel, it computes in fp32 throughout.)"""
    if q.size(-3) != k.size(-3):
        k, v = (each.repeat_interleave(q.size(-3) // each.size(-3), -3) for each in (k, v))
    scores = (q @ k.transpose(-2, -1)) * (scale or 1 / math.sqrt(q.size(-1)))
    if mask is not None:
        scores = scores + mask
    wide = torch.float32 if torch.is_autocast_enabled("cuda") else None
    weights = torch.dropout(torch.softmax(scores, -1, dtype=wide), dropout_p, True)
    del scores
    return weights.to(q.dtype) @ v


def attention_backend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    grouped: bool,
    capability: tuple[int, int],
) -> str:
    """The kernel that a card of `capability` runs for this call; see `policy.attention_backend`."""
    call = policy.Attention(
        q=tuple(q.shape),
        k=tuple(k.shape),
        v=tuple(v.shape),
        dtype=str(q.dtype).removeprefix("torch."),
        element=q.element_size(),
        mask=None if mask is None else tuple(mask.shape),
        mask_learns=mask is not None and mask.requires_grad,
        dropout=dropout,
        causal=causal,
        grouped=grouped,
        learns=torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v)),
        packed=all(each is None or each.stride(-1) == 1 for each in (q, k, v, mask)),
        offset=math.gcd(*(each.storage_offset() * each.element_size() for each in (q, k, v))),
    )
    return policy.attention_backend(call, capability, _RELEASE)


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float, is_causal: bool, scale: float | None) -> Tensor:
    head = q.size(-1)
    padding = -head % 8  # the kernel wants head sizes in multiples of 8
    if padding:
        q, k, v = (torch.nn.functional.pad(each, (0, padding)) for each in (q, k, v))
    scale = scale or 1 / math.sqrt(head)
    out = aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    return out[..., :head] if padding else out


def _as_four(mask: Tensor | None) -> Tensor | None:
    return mask if mask is None or mask.dim() == 4 else mask[(None,) * (4 - mask.dim())]


def _expanded(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The mask as the efficient kernel wants it: rows that start at multiples of 8 numbers, one for each head."""
    if mask is None:
        return None
    if any(each % 8 for each in mask.stride()[:-1]) or mask.stride(-1) != 1:
        length = mask.size(-1)
        mask = torch.nn.functional.pad(mask, (0, 8 - length % 8))[..., :length]
    return mask.expand(*q.shape[:-1], k.size(-2))


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
    """CUDA's autocast on the private backend's key; casts of fp32 leaves are cached until the outermost region ends.

    PyTorch keeps whether autocast is on, its type and its cache for "cuda" in every build; only `torch.autocast` itself
    refuses to set them without a device. So it is made to set them, and the private key follows."""

    def __init__(self) -> None:
        self._key = torch._C._dispatch_key_parse(_KEY_NAME)
        self._keys = torch._C.DispatchKeySet(self._key)
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    @contextlib.contextmanager
    def follows_torch(self) -> Iterator[None]:
        """Inside, `torch.autocast` for "cuda" (also as a decorator, and as `torch.cuda.amp.autocast`) works."""
        region = torch.amp.autocast_mode.autocast
        enter, leave = region.__enter__, region.__exit__

        def entered(this: Any) -> Any:
            result = enter(this)
            self._follow()
            return result

        def left(this: Any, *error: Any) -> Any:
            result = leave(this, *error)
            self._follow()
            torch.autocast_increment_nesting()
            if torch.autocast_decrement_nesting() == 0:
                self._cache.clear()
            return result

        with (
            mock.patch.object(region, "__enter__", entered),
            mock.patch.object(region, "__exit__", left),
            mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            mock.patch.object(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True),
            torch._C._IncludeDispatchKeyGuard(self._key),
        ):
            self._follow()
            try:
                yield
            finally:
                self._cache.clear()
                torch.set_autocast_enabled("privateuseone", False)

    def _follow(self) -> None:
        # sets whether the key is in the thread's excluded set
        torch.set_autocast_enabled("privateuseone", torch.is_autocast_enabled("cuda"))

    def kernels(self) -> Iterator[_Kernel]:
        groups = (
            (policy.LOWER, self._in_lower),
            (policy.FULL, self._in_full),
            (policy.FULL_RESULT, self._with_full_result),
            (policy.WIDEST, self._in_widest),
            (("_cudnn_rnn",), self._recurrent),
        )
        for names, wrap in groups:
            for operator in filter(None, map(operator_named, names)):
                yield operator, wrap(operator)

    def _outside(self) -> Any:
        return torch._C._ExcludeDispatchKeyGuard(self._keys)

    def _in_lower(self, operator: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(operator, args, kwargs, torch.get_autocast_dtype("cuda"))

    def _in_full(self, operator: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(operator, args, kwargs, torch.float32)

    def _in_widest(self, operator: Any) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            dtypes = {each.dtype for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
            if not dtypes & set(CASTABLE):
                with self._outside():
                    return operator(*args, **kwargs)
            widest = torch.float32 if torch.float32 in dtypes else torch.get_autocast_dtype("cuda")
            return self._call(operator, args, kwargs, widest)

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

    def _recurrent(self, operator: Any) -> Callable[..., Any]:
        """cuDNN's layers run in fp16, whatever type autocast has, on a copy of all weights made at every call."""

        def kernel(*args: Any) -> Any:
            with self._outside():
                if args[1][0].dtype == torch.float32:
                    args = (args[0], rnn.half_weights(args[1]), *args[2:])
                return operator(*(self._cast(each, torch.float16) for each in args))

        return kernel

    def _call(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any], dtype: torch.dtype) -> Any:
        with self._outside():
            # C++ evaluates the wrapper's arguments right to left, which decides the order of the casts
            args = [self._cast(each, dtype) for each in reversed(args)][::-1]
            return operator(*args, **{name: self._cast(each, dtype) for name, each in kwargs.items()})

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(each, dtype) for each in value)
        if not isinstance(value, Tensor) or not value.is_meta or value.dtype not in CASTABLE:
            return value
        if value.dtype == dtype:
            return value
        leaf = value.dtype == torch.float32 and value.requires_grad and value.is_leaf and not value._is_view()
        if dtype == torch.float32 or not leaf or not torch.is_autocast_cache_enabled():
            return value.to(dtype)
        if id(value) not in self._cache:
            self._cache[id(value)] = (value, value.to(dtype))
        return self._cache[id(value)][1]


# --- operators that `meta` lacks -------------------------------------------------------------------------------------


# In place, in the tensors they are given: no other memory.
ANSWERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    f"_fused_{name}_": lambda func, args, kwargs: None for name in ("adam", "adamw", "sgd", "adagrad")
} | {**rnn.ANSWERS, **experts.ANSWERS}
