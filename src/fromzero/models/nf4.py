"""A frozen linear layer in four bits (NF4, Dettmers et al. 2023), by bitsandbytes' kernels.

bitsandbytes' own layer keeps half of its numbers beside the weight, where `load_state_dict` does not look: what was
saved does not come back. Here all of them are buffers, so that a checkpoint is exact like any other.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.errors import MissingPackage
from fromzero.planner.standins import Nf4Linear


class Nf4Layer(Nf4Linear):
    """The stand-in with numbers: the same tensors in the same places, and the offset of the scales."""

    def __init__(self, layer: Any, inputs: int, outputs: int) -> None:
        super().__init__(layer, inputs, outputs)
        self.transposed = not isinstance(layer, nn.Linear)  # GPT-2's layers hold (inputs, outputs)
        weight = layer.weight.detach()
        packed, state = _functional().quantize_4bit(
            (weight.T if self.transposed else weight).contiguous(), quant_type="nf4", compress_statistics=True
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("absmax", state.absmax)
        self.register_buffer("nested_absmax", state.state2.absmax)
        self.register_buffer("offset", state.offset.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self, self.bias)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The full weight (outputs, inputs)."""
        functional = _functional()
        device = self.weight.device
        scales = functional.QuantState(
            absmax=self.nested_absmax, code=_scale_map(device), blocksize=256, dtype=torch.float32
        )
        state = functional.QuantState(
            absmax=self.absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            code=_value_map(device),
            blocksize=64,
            quant_type="nf4",
            dtype=dtype,
            offset=self.offset,
            state2=scales,
        )
        return functional.dequantize_4bit(self.weight, state)

    def full(self) -> nn.Module:
        """The layer it was made from, as exactly as four bits hold it."""
        weight = self.dequantised(torch.float32)
        if self.transposed:
            from transformers.pytorch_utils import Conv1D

            made: Any = Conv1D(self.out_features, self.in_features)
            weight = weight.T.contiguous()
        else:
            made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        made.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            made.bias = self.bias
        return made.to(weight.device)


class _Product(torch.autograd.Function):
    """The full weight is made for each product and dropped: in the forward and in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Layer, bias: Tensor | None) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantised(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        bias = grads[0].flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        return grads[0] @ ctx.layer.dequantised(grads[0].dtype), None, bias


def bitsandbytes() -> Any:
    """The package. Raises MissingPackage."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it talks when it is loaded
    try:
        import bitsandbytes as package
        import bitsandbytes.functional
        import bitsandbytes.optim
    except ImportError as error:
        raise MissingPackage("bitsandbytes", "text") from error
    return package


def _functional() -> Any:
    return bitsandbytes().functional


_MAPS: dict[tuple[str, torch.device], Tensor] = {}


def _value_map(device: torch.device) -> Tensor:
    """The sixteen values of NF4."""
    return _kept("nf4", device, lambda: _functional().get_4bit_type("nf4", device=device))


def _scale_map(device: torch.device) -> Tensor:
    """The 256 values of a scale."""
    return _kept("scale", device, lambda: _functional().create_dynamic_map().to(device))


def _kept(name: str, device: torch.device, make: Any) -> Tensor:
    if (name, device) not in _MAPS:
        _MAPS[name, device] = make()
    return _MAPS[name, device]
