"""What bitsandbytes' objects hold and take, for tensors without numbers: the same blocks of memory, no arithmetic.

The layouts are those of bitsandbytes 0.45 to 0.50, compared with the real objects in a test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUANTISED_FROM = 4096  # elements; smaller tensors keep their state in fp32
_STATE_BLOCK = 256  # elements that share one scale
_WEIGHT_BLOCK = 64


class AdamW8bit(torch.optim.Optimizer):
    """Two moments of one byte an element, with an fp32 scale for each block of 256; updated in place, tensor by tensor,
    without temporaries."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})
        self._maps: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for each in group["params"]:
                if each.grad is not None and not self.state[each]:
                    self.state[each] = self._state_of(each)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        count = parameter.numel()
        if count < _QUANTISED_FROM:
            return {name: torch.empty_like(parameter, dtype=torch.float32) for name in ("state1", "state2")}
        if not self._maps:  # one pair for all
            self._maps = [torch.empty(256, device=parameter.device) for _ in range(2)]
        scales = -(-count // _STATE_BLOCK)
        moments = {
            name: torch.empty(count, dtype=torch.uint8, device=parameter.device) for name in ("state1", "state2")
        }
        return moments | {name: torch.empty(scales, device=parameter.device) for name in ("absmax1", "absmax2")}


class Nf4Linear(nn.Module):
    """A frozen linear layer whose weights are half a byte each (NF4, Dettmers et al. 2023) with one byte of scale a
    block of 64, the scales quantised once more. Forward and backward each make the full weight for their product."""

    def __init__(self, layer: Any, inputs: int, outputs: int) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        count, device = layer.weight.numel(), layer.weight.device
        self.weight = nn.Parameter(torch.empty((-(-count // 2), 1), dtype=torch.uint8, device=device), False)
        self.bias = layer.bias
        blocks = -(-count // _WEIGHT_BLOCK)
        self.register_buffer("absmax", torch.empty(blocks, dtype=torch.uint8, device=device))
        self.register_buffer("nested_absmax", torch.empty(-(-blocks // _STATE_BLOCK), device=device))

    def forward(self, x: Tensor) -> Tensor:
        return _Nf4Product.apply(x, self.weight, self.absmax, self.bias, self.out_features)


class _Nf4Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
        ctx.absmax, ctx.features = absmax, (x.shape[-1], outputs)  # not x: the weights get no gradient
        return nn.functional.linear(x, _full(absmax, (outputs, x.shape[-1]), x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        inputs, outputs = ctx.features
        return grads[0] @ _full(ctx.absmax, (outputs, inputs), grads[0].dtype), None, None, None, None


def _full(absmax: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight in the precision of the product; its scales become fp32 for as long as that takes."""
    scales = absmax.to(torch.float32)
    full = torch.empty(shape, dtype=dtype, device=absmax.device)
    del scales
    return full
