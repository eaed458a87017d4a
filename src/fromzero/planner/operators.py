"""What one operator costs: its kernel class, its floating-point operations, its shape and the bytes it moves.

`costs` reads an operator's arguments and results as the dispatcher saw them. Multiply-adds count as two operations.
Views and allocations cost nothing and give no row; the two gradients of a convolution are two rows, for they are two
kernels of very different speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromzero.planner import rnn
from fromzero.planner.shortcuts import tensors_in


@dataclass(frozen=True)
class Cost:
    """`kind` is the kernel class the timing model knows; `dtype` the precision it computes in; `dims` the shape of what
    computes, as a matrix product: rows M, columns N, depth K, products (groups, heads, steps), kernel area, stride;
    `layout` of a convolution is "nchw" or "nhwc"; `launches` how many kernels, or rounds of one, come one after
    another."""

    operator: str
    kind: str
    dtype: str
    flops: float
    bytes: float
    phase: str = ""
    dims: tuple[float, ...] = ()
    layout: str = ""
    launches: float = 1.0


def costs(operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> list[Cost]:
    """The cost of calling `operator` with `args` and `kwargs` and getting `out`: no row for what launches no kernel."""
    name = operator._schema.name.partition("::")[2]
    if operator.is_view or name in _FREE:
        return []
    inputs = tensors_in((args, kwargs))
    outputs = tensors_in((out,))
    if not inputs and not outputs:  # the profiler's own marks
        return []
    floating = next((each for each in inputs if each.is_floating_point()), None)
    dtype = str(floating.dtype).removeprefix("torch.") if floating is not None else "other"
    special = _COMPUTE.get(name)
    if special is not None:
        return special(_Call(name, args, out, dtype, _moved(name, inputs, outputs)))
    kind = _memory_kind(name, args, outputs)
    return [Cost(name, kind, dtype, 0.0, _moved(name, inputs, outputs))]


@dataclass(frozen=True)
class _Call:
    name: str
    args: Sequence[Any]
    out: Any
    dtype: str
    moved: float

    def row(self, kind: str, flops: float, dims: tuple[float, ...], **more: Any) -> Cost:
        return Cost(self.name, kind, self.dtype, flops, **{"bytes": self.moved, "dims": dims, **more})


def _moved(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Bytes read and written: an in-place operator does both, an overwritten tensor is not read, of a table only the
    rows that are looked up are."""
    if name in _OVERWRITES:
        inputs = inputs[1:]
    if name in _LOOK_UP:
        inputs = [*inputs[1:], *outputs]
    once = {id(each): each for each in inputs}.values()
    return float(sum(map(_bytes, once)) + sum(map(_bytes, outputs)))


def _bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements: an expanded dimension is one."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count if tensor.numel() else 0


# --- operators that compute ---------------------------------------------------------------------------------------


def _matrix(call: _Call) -> list[Cost]:
    *_, left, right = (each for each in call.args if isinstance(each, Tensor))
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    products = left.shape[0] if left.dim() == 3 else 1
    kind = "bmm" if left.dim() == 3 else "gemm"
    return [call.row(kind, 2.0 * products * m * n * k, (m, n, k, products, 1, 1))]


def _grouped_matrix(call: _Call) -> list[Cost]:
    """Experts: groups of rows (or of the depth, for the gradient of weights), taken as equally long."""
    left, right = call.args[:2]
    along_depth = left.dim() == right.dim() == 2
    experts = call.out.shape[0] if along_depth else max(left, right, key=Tensor.dim).shape[0]
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    dims = (m, n, k / experts, experts, 1, 1) if along_depth else (m / experts, n, k, experts, 1, 1)
    return [call.row("bmm", 2.0 * m * n * k, dims)]


def _convolution(call: _Call) -> list[Cost]:
    x, weight, stride, transposed, groups = call.args[0], call.args[1], call.args[3], call.args[6], call.args[8]
    shape = _Convolution.of(x, weight, call.out, stride, transposed, groups)
    return [call.row(shape.kind, shape.flops, shape.dims, layout=shape.layout)]


def _convolution_backward(call: _Call) -> list[Cost]:
    grad, x, weight, stride, transposed, groups, mask = (call.args[each] for each in (0, 1, 2, 4, 7, 9, 10))
    shape = _Convolution.of(x, weight, grad, stride, transposed, groups)
    moved = float(_bytes(grad) + _bytes(x) + _bytes(weight))  # each reads two of them and writes the third
    names = [f"{shape.kind}.{side}" for side, wanted in zip(("dgrad", "wgrad"), mask, strict=False) if wanted]
    rows = [call.row(name, shape.flops, shape.dims, layout=shape.layout, bytes=moved) for name in names]
    if mask[2]:
        rows.append(Cost(call.name, "reduce.outer", call.dtype, 0.0, float(_bytes(grad))))
    return rows


@dataclass(frozen=True)
class _Convolution:
    kind: str
    flops: float
    dims: tuple[float, ...]
    layout: str

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, result: Tensor, stride: Any, transposed: bool, groups: int) -> _Convolution:
        """The convolution from `x` to `result`. A transposed one is the data gradient of its mirror image."""
        positions = x.shape[0] * math.prod((x if transposed else result).shape[2:])
        area, depth = math.prod(weight.shape[2:]), weight.shape[1]
        dims = (positions, weight.shape[0] // groups, depth * area, groups, area, max(stride))
        return cls(
            kind=_convolution_kind(weight, groups),
            flops=2.0 * positions * weight.numel(),
            dims=dims,
            layout="nhwc" if channels_last(x) or channels_last(weight) else "nchw",
        )


def channels_last(x: Tensor) -> bool:
    """Whether convolutions take `x` as (batch, height, width, channels) in memory: PyTorch's own rule, by strides."""
    if x.dim() != 4 or x.stride(1) != 1 or x.stride(3) != x.shape[1]:
        return False
    return x.shape[1] > 1 or (math.prod(x.shape[2:]) > 1 and x.shape[0] > 1 and not x.is_contiguous())


def _convolution_kind(weight: Tensor, groups: int) -> str:
    depth, area = weight.shape[1], math.prod(weight.shape[2:])
    if groups > 1:
        return "depthwise" if depth == 1 else "grouped"
    if depth <= _PICTURE_CHANNELS:
        return "stem"
    return "conv" if area > 1 else "conv1x1"


def _attention(call: _Call) -> list[Cost]:
    q, k, v = call.args[0], call.args[1], call.args[2]
    return [_attention_row(call, "attention", 1.0, q, k, v)]


def _attention_backward(call: _Call) -> list[Cost]:
    q, k, v = call.args[1], call.args[2], call.args[3]  # five products against the two of the forward pass
    return [_attention_row(call, "attention.backward", 2.5, q, k, v)]


def _attention_row(call: _Call, kind: str, share: float, q: Tensor, k: Tensor, v: Tensor) -> Cost:
    heads, length, depth = math.prod(q.shape[:-2]), k.shape[-2], q.shape[-1]
    flops = share * 2.0 * math.prod(q.shape[:-1]) * length * (depth + v.shape[-1])
    return call.row(kind, flops, (q.shape[-2], length, depth, heads, 1, 1))


def _recurrent(call: _Call) -> list[Cost]:
    return [_recurrent_row(call, "rnn", 1.0, call.args)]


def _recurrent_backward(call: _Call) -> list[Cost]:
    args = list(call.args)
    forward = [*args[:5], None, *args[10:14], args[14], args[15], args[16], args[17]]
    return [_recurrent_row(call, "rnn.backward", 2.0, forward)]


def _recurrent_row(call: _Call, kind: str, share: float, args: Sequence[Any]) -> Cost:
    """One after another go the time steps, each a product with the weights of the state; layers overlap little."""
    shape = rnn.layers_of(args)
    steps = max(1, shape.tokens // max(shape.batch, 1))
    gates = rnn.GATES[shape.mode] * shape.hidden
    chains = shape.layers * shape.directions
    moved = call.moved + share * steps * shape.weight_numbers() * shape.element
    dims = (shape.batch, gates, shape.hidden, 1, 1, 1)
    return call.row(kind, share * shape.products(), dims, bytes=moved, launches=share * steps * chains)


def _onednn_recurrent(call: _Call) -> list[Cost]:
    """One layer and direction of an LSTM: x (steps, batch, inputs), weights (gates, inputs) and (gates, hidden)."""
    x, first, second = call.args[:3]
    steps, batch = x.shape[0], x.shape[1]
    backward = call.name.endswith("backward")
    flops = (4.0 if backward else 2.0) * steps * batch * (first.numel() + second.numel())
    dims = (batch, first.shape[0], second.shape[1], 1, 1, 1)
    return [call.row("rnn.backward" if backward else "rnn", flops, dims, launches=float(steps))]


def _interpolation(call: _Call) -> list[Cost]:
    """Enlarging a picture by weights. PyTorch's kernel for NCHW has a thread for each pixel of the result, which takes
    pictures and channels one after another: on small pictures it waits for memory at each, on any card."""
    serial = 1.0 if channels_last(call.args[0]) else float(math.prod(call.args[0].shape[:2]))
    return [Cost(call.name, "upsample", call.dtype, 0.0, call.moved, launches=max(1.0, serial))]


_PICTURE_CHANNELS = 4
_COMPUTE: dict[str, Callable[[_Call], list[Cost]]] = {
    "mm": _matrix,
    "bmm": _matrix,
    "addmm": _matrix,
    "baddbmm": _matrix,
    "_grouped_mm": _grouped_matrix,
    "grouped_mm_fallback": _grouped_matrix,
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "_cudnn_rnn": _recurrent,
    "_cudnn_rnn_backward": _recurrent_backward,
    "mkldnn_rnn_layer": _onednn_recurrent,
    "mkldnn_rnn_layer_backward": _onednn_recurrent,
    **dict.fromkeys("upsample_bilinear2d upsample_bicubic2d".split(), _interpolation),
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_cudnn_attention_backward": _attention_backward,
    "_scaled_dot_product_flash_attention_backward": _attention_backward,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_efficient_attention_backward": _attention_backward,
}

# --- operators that only move data --------------------------------------------------------------------------------

_FREE = frozenset(
    """
    empty empty_like empty_strided new_empty new_empty_strided detach alias _unsafe_view _reshape_alias lift_fresh
    set_ resize_ scalar_tensor _local_scalar_dense is_same_size
    """.split()
)
_OVERWRITES = frozenset("copy_ fill_ zero_ normal_ uniform_ zeros_like ones_like full_like".split())
_LOOK_UP = frozenset("embedding index index_select gather".split())  # what is read is as large as what is written

_KINDS: dict[str, str] = {
    **dict.fromkeys("cat stack".split(), "cat"),
    **dict.fromkeys("embedding index index_select gather roll flip repeat".split(), "gather"),
    **dict.fromkeys(
        "embedding_dense_backward index_put index_put_ _index_put_impl_ scatter scatter_add scatter_add_".split(),
        "scatter",
    ),
    **dict.fromkeys(
        "constant_pad_nd slice_backward select_backward as_strided_scatter unfold_backward im2col col2im".split(), "pad"
    ),
    **dict.fromkeys("fill_ zero_ zeros_like ones_like full_like full zeros ones new_zeros new_full".split(), "fill"),
    **dict.fromkeys(
        "gelu silu sigmoid tanh hardswish mish elu exp erf pow log hardsigmoid silu_".split(), "activation"
    ),
    **dict.fromkeys("native_dropout bernoulli_".split(), "dropout"),
    **dict.fromkeys("_softmax _log_softmax _safe_softmax".split(), "softmax"),
    **dict.fromkeys("_softmax_backward_data _log_softmax_backward_data".split(), "softmax.backward"),
    **dict.fromkeys("cumsum sort topk argsort cumprod".split(), "scan"),
}
_COPIES = frozenset("_to_copy copy_ clone contiguous".split())
_REDUCTIONS = frozenset("sum mean var std var_mean amax amin max min norm linalg_vector_norm prod any argmax".split())
# Parts of an operator's name, in the order they are looked for.
_PARTS: tuple[tuple[str, str], ...] = (
    ("_foreach", "optimizer"),
    ("_fused_", "optimizer"),
    ("batch_norm", "batch_norm"),
    ("layer_norm", "layer_norm"),
    ("group_norm", "group_norm"),
    ("rms_norm", "layer_norm"),
    ("pool", "pool"),
    ("upsample", "upsample"),
    ("grid_sampler", "upsample"),
)


def _memory_kind(name: str, args: Sequence[Any], outputs: Sequence[Tensor]) -> str:
    if name in _KINDS:
        return _KINDS[name]
    if name in _COPIES:
        source = args[1] if name == "copy_" else args[0]
        return _copy_kind(source, outputs[0] if outputs else source)
    if name in _REDUCTIONS:
        return _reduction_kind(args)
    backward = "backward" in name
    for part, kind in _PARTS:
        if part in name and not name.startswith("linalg"):
            if kind == "batch_norm" and not backward and not _trains(args):
                return "elementwise"
            return f"{kind}.backward" if backward else kind
    return "elementwise.backward" if backward else "elementwise"


def _copy_kind(source: Any, target: Tensor) -> str:
    """A cast, a plain copy, or a transposed one: slow where the dimension next in memory changes."""
    if not isinstance(source, Tensor):
        return "fill"
    same = all(a == b or n == 1 for a, b, n in zip(source.stride(), target.stride(), target.shape, strict=False))
    if same and source.dim() == target.dim():
        return "copy" if source.dtype == target.dtype else "cast"
    return "transpose.outer" if _innermost(source) == _innermost(target) else "transpose.inner"


def _innermost(x: Tensor) -> int:
    """The dimension along which neighbours in memory lie; the last of equals."""
    wide = [(stride, -place) for place, (n, stride) in enumerate(zip(x.shape, x.stride(), strict=True)) if n > 1]
    return -min((each for each in wide if each[0]), default=(0, 1))[1]


def _reduction_kind(args: Sequence[Any]) -> str:
    """Over the dimension next in memory, or over others (as the gradient of a bias is summed)."""
    x = args[0]
    dims = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else []
    if not isinstance(x, Tensor) or not dims or not x.dim():
        return "reduce"
    return "reduce" if _innermost(x) in [each % x.dim() for each in dims] else "reduce.outer"


def _trains(args: Sequence[Any]) -> bool:
    return any(each is True for each in args[5:6])
