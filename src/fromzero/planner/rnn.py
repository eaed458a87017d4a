"""Recurrent layers as a device runs them: one cuDNN call on a card, oneDNN's layers for an LSTM on a CPU.

On `meta` PyTorch would take them apart into the cells of every time step, which is neither. The kernels here replace
`lstm`, `gru`, `rnn_tanh` and `rnn_relu`; `ANSWERS` gives what the device's own operators return.

cuDNN's reserve (kept for backward) and workspace (while it runs) have no published formula. These reproduce the four
sizes that pytorch#2895 reports, LSTM and GRU of 4 layers; two directions, dropout and other batches are assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

aten = torch.ops.aten

MODES = ("rnn_relu", "rnn_tanh", "lstm", "gru")  # cuDNN's numbers for them
GATES = (1, 1, 4, 3)
_KEPT = (1, 1, 5, 6)  # vectors of the hidden size kept for each step, beside each upper layer's input
_LSTM = 2
_CUDNN_TYPES = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Layers:
    """The shape of a call: `tokens` is time steps times batch, the packed sum where sequences differ in length."""

    mode: int
    inputs: int
    hidden: int
    layers: int
    directions: int
    batch: int
    tokens: int
    element: int
    projected: int = 0

    def weight_numbers(self) -> int:
        """Numbers in all matrices, without the biases."""
        return sum(self.directions * self._gates(width) for width in self._widths())

    def products(self) -> float:
        """Floating-point operations of the gates' matrix products, forward."""
        return 2.0 * self.tokens * self.weight_numbers()

    def reserve_bytes(self, dropout: float = 0.0) -> int:
        """What cuDNN keeps from the forward pass for the backward pass."""
        row = self.tokens * self.hidden * self.directions
        masks = (self.layers - 1) * math.ceil(row / 8) if dropout else 0
        return self.element * row * (_KEPT[self.mode] * self.layers + self.layers - 1) + masks

    def workspace_bytes(self) -> int:
        """What cuDNN needs while it runs: its own layout of the weights, and the gates of one step of each layer."""
        gates = GATES[self.mode]
        steps = (3 * gates - 1) * self.layers * self.directions * self.batch * self.hidden
        return self.element * (self.weight_numbers() + steps)

    def _gates(self, width: int) -> int:
        out = self.projected or self.hidden
        return GATES[self.mode] * self.hidden * (width + out) + self.projected * self.hidden

    def _widths(self) -> Iterator[int]:
        yield self.inputs
        for _ in range(self.layers - 1):
            yield self.directions * (self.projected or self.hidden)


def layers_of(args: Sequence[Any]) -> Layers:
    """The shape of a call of `_cudnn_rnn` by its arguments."""
    x, hx, mode, hidden, projected, layers, bidirectional = (args[each] for each in (0, 4, 6, 7, 8, 9, 13))
    return Layers(
        mode=mode,
        inputs=x.shape[-1],
        hidden=hidden,
        layers=layers,
        directions=2 if bidirectional else 1,
        batch=hx.shape[1],
        tokens=math.prod(x.shape[:-1]),
        element=x.element_size(),
        projected=projected,
    )


# --- a card ---------------------------------------------------------------------------------------------------------


def cuda_kernels() -> Iterator[tuple[Any, Callable[..., Any]]]:
    """(operator, kernel for `meta`) of every recurrent layer."""
    for mode, name in enumerate(MODES):
        packet = getattr(aten, name)
        yield packet.input, _cudnn(mode)
        yield packet.data, _cudnn_packed(mode)


def _cudnn(mode: int) -> Callable[..., Any]:
    def kernel(x, hidden, weights, has_biases, layers, dropout, train, bidirectional, batch_first):
        return _call(mode, x, hidden, weights, has_biases, layers, batch_first, dropout, train, bidirectional, [])

    return kernel


def _cudnn_packed(mode: int) -> Callable[..., Any]:
    def kernel(x, sizes, hidden, weights, has_biases, layers, dropout, train, bidirectional):
        # the sizes themselves lie in numbers that are not here: of them only the batch and the sum count
        states = hidden[0] if mode == _LSTM else hidden
        first = [states.shape[1]] + [1] * (sizes.numel() - 1)
        return _call(mode, x, hidden, weights, has_biases, layers, False, dropout, train, bidirectional, first)

    return kernel


def _call(mode, x, hidden, weights, has_biases, layers, batch_first, dropout, train, bidirectional, sizes) -> Any:
    hx, cx = hidden if mode == _LSTM else (hidden, None)
    width, projected = hx.shape[2], 0
    if cx is not None and cx.shape[2] != width:
        width, projected = cx.shape[2], width
    stride = (4 if has_biases else 2) + bool(projected)
    out, hy, cy, *_ = aten._cudnn_rnn(
        x, weights, stride, None, hx, cx, mode, width, projected, layers, batch_first, dropout, train, bidirectional,
        sizes, None,
    )  # fmt: skip
    return (out, hy, cy) if mode == _LSTM else (out, hy)


def half_weights(weights: Sequence[Tensor]) -> list[Tensor]:
    """The weights in fp16, as views of one buffer, differentiable."""
    return list(_HalfWeights.apply(*weights))


class _HalfWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> Any:
        ctx.dtype = weights[0].dtype
        return _views(weights[0].new_empty(sum(each.numel() for each in weights), dtype=torch.float16), weights)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return tuple(None if each is None else each.to(ctx.dtype) for each in grads)


def _views(buffer: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Pieces of `buffer` in the shapes of `like`, one after the other."""
    pieces = buffer.split([each.numel() for each in like])
    return tuple(piece.view(each.shape) for piece, each in zip(pieces, like, strict=True))


def _forward(func: Any, args: Any, kwargs: Any) -> Any:
    x, hx, cx, batch_first, dropout, train, sizes = (args[each] for each in (0, 4, 5, 10, 11, 12, 14))
    shape = layers_of(args)
    width = shape.directions * (shape.projected or shape.hidden)
    out = x.new_empty((*x.shape[:-1], width))
    if batch_first and not sizes:
        out = x.new_empty((x.shape[1], x.shape[0], width)).transpose(0, 1)
    reserve = x.new_empty((shape.reserve_bytes(dropout) if train else 0,), dtype=torch.uint8)
    cy = hx.new_empty((0,)) if cx is None else torch.empty_like(cx)
    return out, torch.empty_like(hx), cy, reserve, x.new_empty((0,))


def forward_workspace(args: Any) -> int:
    """Bytes while the forward pass runs: cuDNN's own, and the input with time first."""
    return layers_of(args).workspace_bytes() + _time_first(args[0], args[10], args[14])


def _backward(func: Any, args: Any, kwargs: Any) -> Any:
    x, weights, hx, cx, batch_first, sizes, wanted = (args[each] for each in (0, 1, 4, 5, 14, 18, 21))
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    if batch_first and not sizes:
        dx = x.new_empty((x.shape[1], x.shape[0], x.shape[2])).transpose(0, 1)
    dcx = None if cx is None else torch.empty_like(cx)
    dweights = _views(weights[0].new_empty(sum(each.numel() for each in weights)), weights) if wanted[3] else ()
    return dx, torch.empty_like(hx), dcx, list(dweights)


def backward_workspace(args: Any) -> int:
    """Bytes while the backward pass runs, beside what it returns: the weights' gradients are made after those of the
    input, when the gradient of the output with time first is gone."""
    x, weights, hx, cx, grad, grad_hy, grad_cy, batch_first, sizes = (args[i] for i in (0, 1, 4, 5, 7, 8, 9, 14, 18))
    shape = layers_of((x, None, None, None, hx, cx, *args[10:]))
    states = (_bytes(hx) if grad_hy is None else 0) + (_bytes(cx) if cx is not None and grad_cy is None else 0)
    made = 0 if grad is not None and grad.is_contiguous() and not batch_first else _bytes(args[6])
    dweights = sum(map(_bytes, weights))
    return shape.workspace_bytes() + states + _time_first(x, batch_first, sizes) + max(0, made - dweights)


def _time_first(x: Tensor, batch_first: bool, sizes: Sequence[int]) -> int:
    """Bytes of the copy that puts time first, if one is made."""
    return _bytes(x) if batch_first and not sizes and not x.transpose(0, 1).is_contiguous() else 0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# --- a CPU ----------------------------------------------------------------------------------------------------------


def cpu_kernels() -> Iterator[tuple[Any, Callable[..., Any]]]:
    """(operator, kernel for `meta`) where a CPU differs: an LSTM is oneDNN's, a layer and direction at a time; the
    other cells are taken apart, but multiply the whole sequence with the input's weights first. Packed sequences and
    projections stay as `meta` has them."""
    if torch.backends.mkldnn.is_available():
        yield aten.lstm.input, _onednn_lstm
    for name, cell in (
        ("gru", _gru_cell),
        ("rnn_tanh", _plain_cell(torch.tanh)),
        ("rnn_relu", _plain_cell(torch.relu)),
    ):
        yield getattr(aten, name).input, _cells(cell)


def _onednn_lstm(x, hidden, weights, has_biases, layers, dropout, train, bidirectional, batch_first):
    hx, cx = (each.contiguous() for each in hidden)
    stride = 4 if has_biases else 2
    states: tuple[list[Tensor], list[Tensor]] = ([], [])

    def run(x: Tensor, index: int, backwards: bool) -> Tensor:
        own = list(weights[index * stride : (index + 1) * stride])
        own += [] if has_biases else [torch.zeros_like(each) for each in own]
        out, hy, cy, _ = aten.mkldnn_rnn_layer(
            x, *own, hx[index], cx[index], backwards, [], _LSTM, hx.shape[2], layers, has_biases, bidirectional,
            batch_first, train,
        )  # fmt: skip
        states[0].append(hy)
        states[1].append(cy)
        return out

    x = (x.transpose(0, 1) if batch_first else x).contiguous()
    x = _stacked(run, x, layers, bidirectional, dropout if train else 0.0, [])
    return x.transpose(0, 1) if batch_first else x, torch.stack(states[0]), torch.stack(states[1])


def _cells(cell: Callable[..., Tensor]) -> Callable[..., Any]:
    """A kernel that calls `cell(gates of the input, hidden state, weight, bias)` for each step."""

    def kernel(x, hidden, weights, has_biases, layers, dropout, train, bidirectional, batch_first):
        stride = 4 if has_biases else 2
        last: list[Tensor] = []
        held: list[Tensor] = []

        def run(x: Tensor, index: int, backwards: bool) -> Tensor:
            of_input, of_state, *biases = weights[index * stride : (index + 1) * stride]
            held[:] = [linear(x, of_input, *biases[:1])]
            steps = held[0].unbind(0)
            state, outs = states[index], []
            for gates in reversed(steps) if backwards else steps:
                state = cell(gates, state, of_state, *biases[1:])
                outs.append(state)
            last.append(state)
            return torch.stack(outs[::-1] if backwards else outs)

        states = hidden.unbind(0)
        x = x.transpose(0, 1) if batch_first else x
        out = _stacked(run, x, layers, bidirectional, dropout if train else 0.0, held)
        return out.transpose_(0, 1) if batch_first else out, torch.stack(last)

    return kernel


def _stacked(
    run: Callable[..., Tensor], x: Tensor, layers: int, bidirectional: bool, dropout: float, held: list[Tensor]
) -> Tensor:
    """`run(x, index, backwards)` for each layer and direction, with what PyTorch does between layers. `held` lives
    until a layer's directions are joined, as the variable does that PyTorch has for it."""
    for layer in range(layers):
        if bidirectional:
            x = torch.cat([run(x, 2 * layer, False), run(x, 2 * layer + 1, True)], -1)
        else:
            x = run(x, layer, False)
        held.clear()
        if dropout and layer < layers - 1:
            x = torch.dropout(x, dropout, True)
    return x


def _gru_cell(gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    of_input, of_state = gates.unsafe_chunk(3, 1), linear(state, weight, bias).unsafe_chunk(3, 1)
    reset = of_state[0].add_(of_input[0]).sigmoid_()
    update = of_state[1].add_(of_input[1]).sigmoid_()
    new = of_input[2].add(of_state[2].mul_(reset)).tanh_()
    return (state - new).mul_(update).add_(new)


def _plain_cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cell(gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return activation(linear(state, weight, bias).add_(gates))

    return cell


def _onednn_forward(func: Any, args: Any, kwargs: Any) -> Any:
    x, hx, cx, hidden = args[0], args[5], args[6], args[10]
    out = x.new_empty((x.shape[0], x.shape[1], hidden))
    kept = _onednn_kept(x, hidden) if torch.is_grad_enabled() else 0
    return out, torch.empty_like(hx), torch.empty_like(cx), x.new_empty((kept,), dtype=torch.uint8)


def _onednn_backward(func: Any, args: Any, kwargs: Any) -> Any:
    x, first, second, bias, hx, cx = (args[each] for each in (0, 1, 2, 3, 5, 6))
    like = [x, first, second, bias, bias, hx, cx]
    return tuple(torch.empty_like(each, dtype=torch.float32) for each in like)


def _onednn_kept(x: Tensor, hidden: int) -> int:
    """Bytes that oneDNN's LSTM keeps for the backward pass: seven arrays on pages of their own, the gates and states of
    every step and room for their gradients. Found by asking it for the sizes of thirty layers."""
    steps, batch, inputs = x.shape
    widest = _row(max(inputs, hidden))
    each_step = (_row(4 * hidden), _row(hidden))
    each_state = (*3 * (2 * widest,), *2 * (2 * hidden,))
    rows = [steps * row for row in each_step] + [(steps + 1) * row for row in each_state]
    return sum(math.ceil(4 * batch * row / _PAGE) * _PAGE for row in rows)


_PAGE = 4096


def _row(numbers: int) -> int:
    """Numbers in a row of oneDNN's matrices: whole cache lines, but no whole pages' quarters."""
    lines = math.ceil(numbers / 16) * 16
    return lines + 16 if lines % 256 == 0 else lines


def _onednn_workspace(args: Any) -> int:
    """Bytes while a layer runs: reordered weights, their summed biases, and the gates of all steps."""
    x, weight = args[0], args[1]
    gates, hidden = _row(weight.shape[0]), weight.shape[0] // 4
    rows = x.shape[2] + hidden + x.shape[0] * x.shape[1]
    return 4 * (rows * gates + weight.shape[0] + x.shape[1] * 2 * math.ceil(hidden / 64) * 64)


def _onednn_backward_workspace(args: Any) -> int:
    hx, out, grad, grad_hy, grad_cy = (args[each] for each in (5, 7, 10, 11, 12))
    made = 0 if grad is not None and grad.is_contiguous() else _bytes(out)
    states = ((grad_hy is None) + (grad_cy is None)) * _bytes(hx)
    return _onednn_workspace(args) + made + states


ANSWERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "_cudnn_rnn": _forward,
    "_cudnn_rnn_backward": _backward,
    "mkldnn_rnn_layer": _onednn_forward,
    "mkldnn_rnn_layer_backward": _onednn_backward,
}
CUDA_WORKSPACES: dict[str, Callable[[Any], int]] = {
    "_cudnn_rnn": forward_workspace,
    "_cudnn_rnn_backward": backward_workspace,
}
CPU_WORKSPACES: dict[str, Callable[[Any], int]] = {
    "mkldnn_rnn_layer": _onednn_workspace,
    "mkldnn_rnn_layer_backward": _onednn_backward_workspace,
}
