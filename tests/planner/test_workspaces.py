"""Library workspaces, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from fromzero.planner.workspaces import CUDA_WORKSPACES


def weight_gradient(channels=(64, 64), kernel=3, groups=1, dtype=torch.float32, channels_last=False, wanted=True):
    """Bytes for 8 pictures of 16x16 that keep their size."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(8, channels[0], 16, 16, dtype=dtype, device="meta").to(memory_format=layout)
    grad = torch.empty(8, channels[1], 16, 16, dtype=dtype, device="meta").to(memory_format=layout)
    weight = torch.empty(channels[1], channels[0] // groups, kernel, kernel, dtype=dtype, device="meta")
    half = kernel // 2
    args = (grad, x, weight, None, (1, 1), (half, half), (1, 1), False, (0, 0), groups, (True, wanted, False))
    return CUDA_WORKSPACES["convolution_backward"](args)


ELEMENTS = 8 * 64 * 16 * 16


def test_a_dense_convolution_in_fp32_takes_twice_its_input_and_output():
    assert weight_gradient() == 2 * 2 * ELEMENTS * 4
    assert weight_gradient(channels_last=True) == 2 * 2 * ELEMENTS * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_copies_into_channels_last_order_unless_it_is_in_it(dtype):
    assert weight_gradient(dtype=dtype) == 2 * ELEMENTS * 2
    assert weight_gradient(dtype=dtype, channels_last=True) == 0


@pytest.mark.parametrize("words", [{"channels": (3, 64)}, {"kernel": 1}, {"groups": 64}, {"wanted": False}])
def test_what_takes_none(words):
    assert weight_gradient(**words) == 0


def attention(kind, dtype, head=64, length=100):
    query = torch.empty(2, 4, length, head, dtype=dtype, device="meta")
    return CUDA_WORKSPACES[f"_scaled_dot_product_{kind}_attention_backward"]((query, query, query, query))


def test_attention_sums_the_gradient_of_the_query_in_fp32():
    assert attention("flash", torch.float16) == 4 * 2 * 4 * 128 * (64 + 1)
    assert attention("flash", torch.float16, head=80) == 4 * 2 * 4 * 128 * (96 + 1)
    assert attention("efficient", torch.float32) == 4 * 2 * 4 * 100
    assert attention("efficient", torch.bfloat16) == 4 * 2 * 4 * 100 * (64 + 1)


def embedding(tokens, rows=1000, width=100):
    grad = torch.empty(tokens, width, device="meta")
    indices = torch.empty(tokens, dtype=torch.long, device="meta")
    return CUDA_WORKSPACES["embedding_dense_backward"]((grad, indices, rows, -1, False))


def test_many_tokens_are_sorted_and_few_are_not():
    assert embedding(3072) == 0
    assert embedding(4000) == 32 * 4000 + 4 * (400 + 1000) * 128
