"""Which attention kernel a card runs, by the rules of PyTorch's `sdp_utils.cpp`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fromzero.planner.policy import Attention, attention_backend

SHAPE = (2, 8, 128, 64)
CALL = Attention(
    q=SHAPE, k=SHAPE, v=SHAPE, dtype="float16", element=2, mask=None, mask_learns=False, dropout=0.0, causal=False,
    grouped=False, learns=True, packed=True, offset=0,
)  # fmt: skip
FULL = replace(CALL, dtype="float32", element=4)
BF16 = replace(CALL, dtype="bfloat16")
FEW = (2, 2, 128, 64)


def heads(size, call=CALL):
    shape = (*SHAPE[:-1], size)
    return replace(call, q=shape, k=shape, v=shape)


@pytest.mark.parametrize(
    ("call", "capability", "expected"),
    [
        (CALL, (8, 6), "flash"),
        (CALL, (12, 0), "flash"),
        (CALL, (9, 0), "cudnn"),
        (CALL, (10, 0), "cudnn"),
        (CALL, (7, 5), "efficient"),
        (CALL, (6, 1), "efficient"),
        (BF16, (8, 6), "flash"),
        (BF16, (7, 5), "math"),  # no bfloat16 before Ampere
        (FULL, (9, 0), "efficient"),
        (FULL, (7, 5), "efficient"),
        (replace(CALL, dtype="float64", element=8), (8, 6), "math"),
        (replace(CALL, mask=(2, 1, 1, 128)), (8, 6), "efficient"),
        (replace(CALL, mask=(2, 1, 1, 128)), (9, 0), "cudnn"),
        (replace(CALL, mask=(2, 1, 1, 128), mask_learns=True), (9, 0), "efficient"),
        (replace(CALL, dropout=0.1), (9, 0), "flash"),  # cuDNN knows multiples of 1/16
        (replace(CALL, dropout=0.125), (9, 0), "cudnn"),
        (heads(13), (8, 6), "flash"),  # padded to 16
        (heads(13), (7, 5), "math"),
        (heads(12), (7, 5), "math"),  # half precision wants multiples of 8 there
        (heads(12, FULL), (7, 5), "efficient"),
        (heads(13, FULL), (7, 5), "efficient"),  # and fp32 anything
        (heads(13, FULL), (8, 6), "math"),
        (heads(256), (8, 0), "flash"),
        (heads(208), (8, 6), "efficient"),
        (heads(208), (8, 0), "flash"),
        (replace(heads(208), learns=False), (8, 6), "flash"),
        (heads(256), (8, 9), "flash"),
        (replace(heads(256), dropout=0.1), (8, 9), "efficient"),
        (heads(288), (8, 0), "efficient"),
        (replace(CALL, k=FEW, v=FEW, grouped=True), (8, 6), "flash"),
        (replace(FULL, k=FEW, v=FEW, grouped=True), (8, 6), "efficient"),
        (replace(CALL, k=FEW, v=FEW), (8, 6), "math"),  # not asked for: the composite broadcasts or fails
        (replace(CALL, k=(2, 8, 64, 64), v=(2, 8, 64, 64), causal=True), (8, 0), "efficient"),
        (replace(CALL, packed=False), (8, 6), "math"),
        (replace(FULL, offset=4), (8, 6), "math"),  # a slice that starts off a 16-byte line
        (replace(FULL, offset=4), (7, 5), "efficient"),
        (replace(CALL, q=SHAPE[1:], k=SHAPE[1:], v=SHAPE[1:]), (8, 6), "math"),
    ],
)  # fmt: skip
def test_backend(call, capability, expected):
    assert attention_backend(call, capability) == expected


def test_older_releases_keep_their_order_and_limits():
    assert attention_backend(CALL, (9, 0), torch=(2, 8)) == "flash"
    grouped = replace(FULL, k=FEW, v=FEW, grouped=True)
    assert attention_backend(grouped, (8, 6), torch=(2, 8)) == "math"
