"""Memory that a library's kernel takes while it runs, which no tensor shows: functions of an operator's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

# --- a card ---------------------------------------------------------------------------------------------------------

_PICTURE_CHANNELS = 4  # a first layer's input


def _convolution_backward(args: Any) -> int:
    """cuDNN's weight gradient of a dense convolution wider than 1x1, in multiples of the bytes of input and output.

    fp32: twice, fitted on published peaks on an A100; the algorithm, and so the true figure, varies by shape. Half
    precision: once, the copies in channels-last order that tensor cores need (cuDNN's developer guide); nothing
    published tells once from twice. What is in channels-last order already is not copied. The first layer, with the
    picture's few channels, takes another algorithm, which needs none (seen on RTX 3060 and 4060). Forward pass, input
    gradient, 1x1, grouped and depthwise convolutions were tried and made held-out peaks worse, or no better."""
    grad, x, weight, groups = args[0], args[1], args[2], args[9]
    wanted = args[10][1]
    if not wanted or groups != 1 or weight.shape[1] <= _PICTURE_CHANNELS or math.prod(weight.shape[2:]) == 1:
        return 0
    copies = 2 if x.element_size() >= 4 else 0 if _has_channels_last(x) else 1
    return copies * (_bytes(x) + _bytes(grad))


def _flash_attention_backward(args: Any) -> int:
    """The query's gradient is summed in fp32, rows rounded up to 128 and heads to 32 (flash_api.cpp: dq_accum), beside
    one fp32 number a row."""
    batch, heads, length, head = args[1].shape
    rows = math.ceil(length / 128) * 128
    return 4 * batch * heads * rows * (math.ceil(head / 32) * 32 + 1)


def _efficient_attention_backward(args: Any) -> int:
    """One fp32 number a row; in half precision the query's gradient is summed in fp32 (kernel_backward.h)."""
    query = args[1]
    rows = math.prod(query.shape[:-1])
    return 4 * rows + (4 * query.numel() if query.element_size() < 4 else 0)


def _embedding_backward(args: Any) -> int:
    """Above 3,072 tokens these are sorted (indices and the sorter's buffers: four 8-byte numbers a token), and rows are
    summed in fp32 by segments of at most ten tokens (EmbeddingBackwardKernel.cu)."""
    grad, tokens, rows = args[0], args[1].numel(), args[2]
    if tokens <= 3072:
        return 0
    return 32 * tokens + 4 * (tokens // 10 + min(tokens, rows)) * math.ceil(grad.shape[-1] / 32) * 32


# Not here: cuBLAS's own workspace, which lasts (memory.py), and cublasLt's, which is 1 MiB a call.
CUDA_WORKSPACES: dict[str, Callable[[Any], int]] = {
    "convolution_backward": _convolution_backward,
    "_scaled_dot_product_flash_attention_backward": _flash_attention_backward,
    "_scaled_dot_product_efficient_attention_backward": _efficient_attention_backward,
    "embedding_dense_backward": _embedding_backward,
}

# --- a CPU ----------------------------------------------------------------------------------------------------------


def _onednn_convolution(args: Any) -> int:
    """oneDNN computes on copies whose channels are padded to blocks, then copies its result back to PyTorch's order."""
    x, weight, stride, padding, dilation = args[0], args[1], args[3], args[4], args[5]
    if _has_channels_last(x) or args[6]:
        return 0
    spatial = [
        (n + 2 * pad - step * (k - 1) - 1) // jump + 1
        for n, k, jump, pad, step in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=False)
    ]
    element = x.element_size()
    made = x.shape[0] * math.prod(spatial) * element
    result, blocked = made * weight.shape[0], made * _padded(weight.shape[0])
    return max(_copied(x) + _blocked_weight(weight) + blocked - result, blocked)


def _onednn_convolution_backward(args: Any) -> int:
    """The same in the backward pass: first the gradient of the input, then that of the weight, of which every further
    thread has its own."""
    grad, x, weight, stride, (for_input, for_weight, *_) = args[0], args[1], args[2], args[4], args[10]
    if _has_channels_last(x) or args[7]:
        return 0
    blocked_grad, blocked_weight = _blocked(grad), _blocked_weight(weight)
    plain = _bytes(x) if for_input else 0
    data = weights = 0
    if for_input:
        twice = 2 if max(stride) > 1 else 1  # a result that is not dense is copied once more
        data = max(blocked_grad + blocked_weight + _blocked(x), _blocked(x) + twice * plain)
    if for_weight:
        partial = blocked_weight * (torch.get_num_threads() - 1) + _ONEDNN_SCRATCH
        weights = plain + blocked_grad + _copied(x) + blocked_weight + partial
    return max(data, weights) - plain - (_bytes(weight) if for_weight else 0)


_ONEDNN_SCRATCH = 8448
_PLAIN_CHANNELS = 4  # pictures are read as they are


def _block() -> int:
    """Channels that oneDNN keeps together: one vector register of fp32 numbers."""
    return 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


def _padded(channels: int) -> int:
    return math.ceil(channels / _block()) * _block()


def _blocked(x: Any) -> int:
    channels = x.shape[1] if x.shape[1] <= _PLAIN_CHANNELS else _padded(x.shape[1])
    return x.shape[0] * channels * math.prod(x.shape[2:]) * x.element_size()


def _copied(x: Any) -> int:
    return 0 if x.shape[1] <= _PLAIN_CHANNELS else _blocked(x)


def _blocked_weight(weight: Any) -> int:
    if weight.shape[1] <= _PLAIN_CHANNELS:
        return _bytes(weight)
    return _padded(weight.shape[0]) * _padded(weight.shape[1]) * math.prod(weight.shape[2:]) * weight.element_size()


def _batch_norm_backward(args: Any) -> int:
    """A CPU keeps the centred input while it works."""
    return _bytes(args[1])


def _has_channels_last(x: Any) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _bytes(x: Any) -> int:
    return x.numel() * x.element_size()


CPU_WORKSPACES: dict[str, Callable[[Any], int]] = {
    "convolution": _onednn_convolution,
    "convolution_backward": _onednn_convolution_backward,
    "native_batch_norm_backward": _batch_norm_backward,
}
