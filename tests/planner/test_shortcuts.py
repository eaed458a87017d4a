"""A shortcut gives what PyTorch's own kernel gives: shapes, strides, types, and the same aliasing."""

from __future__ import annotations

import itertools

import pytest
import torch

from fromzero.planner.shortcuts import _ANSWERS, shortcut

aten = torch.ops.aten
HALF = torch.float16


def meta(*shape, dtype=torch.float32, last=False):
    made = torch.empty(shape, device="meta", dtype=dtype)
    return made.contiguous(memory_format=torch.channels_last) if last else made


def layouts():
    for dtype in (torch.float32, HALF, torch.bfloat16, torch.float64):
        yield lambda dtype=dtype: meta(4, 6, dtype=dtype)
        yield lambda dtype=dtype: meta(2, 3, 4, 5, dtype=dtype, last=True)
        yield lambda dtype=dtype: meta(6, 4, dtype=dtype).t()
        yield lambda dtype=dtype: meta(4, 12, dtype=dtype)[:, ::2]
        yield lambda dtype=dtype: meta(dtype=dtype)


def described(value):
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return [described(each) for each in value]
    return value


POINTWISE = ["add", "sub", "mul", "div"]
UNARY = ["gelu", "silu", "relu", "tanh", "sigmoid", "exp", "neg"]
BACKWARD = ["tanh_backward", "gelu_backward", "silu_backward", "sigmoid_backward"]


@pytest.mark.parametrize("name", POINTWISE)
def test_two_tensors(name):
    for one, other in itertools.product(layouts(), layouts()):
        args = (one(), other())
        found = shortcut(name, args, {})
        if found is not NotImplemented:
            assert described(found) == described(getattr(aten, name).Tensor(*args)), args


@pytest.mark.parametrize("name", POINTWISE)
def test_a_tensor_and_a_number(name):
    for one in layouts():
        for number in (2, 0.5):
            found = shortcut(name, (one(), number), {})
            if found is not NotImplemented:
                assert described(found) == described(getattr(aten, name)(one(), number))


@pytest.mark.parametrize("name", UNARY + BACKWARD)
def test_one_tensor_and_its_gradient(name):
    for one in layouts():
        args = (one(),) if name in UNARY else (one(), one())
        found = shortcut(name, args, {})
        if found is not NotImplemented:
            assert described(found) == described(getattr(aten, name)(*args))


def test_the_plain_case_is_answered():
    same = (meta(4, 6), meta(4, 6))
    for name in [*POINTWISE, *BACKWARD]:
        assert shortcut(name, same, {}) is not NotImplemented
    assert shortcut("mm", (meta(3, 4), meta(4, 5)), {}) is not NotImplemented


def test_broadcasting_gives_the_common_shape():
    for one, other in (((4, 6), (6,)), ((4, 1), (1, 6)), ((), (2, 3))):
        args = (meta(*one), meta(*other))
        found = shortcut("mul", args, {})
        if found is not NotImplemented:
            assert described(found) == described(aten.mul.Tensor(*args))


def test_what_is_not_plain_is_left_alone():
    assert shortcut("add", (meta(4, 6), meta(4, 6, dtype=HALF)), {}) is NotImplemented  # promotion
    assert shortcut("add", (torch.zeros(2, 2), torch.zeros(2, 2)), {}) is NotImplemented  # real numbers
    assert shortcut("add", (torch.zeros(2, dtype=torch.long, device="meta"), 0.5), {}) is NotImplemented
    assert shortcut("add", (meta(4, 6), meta(4, 6)), {"alpha": 2}) is NotImplemented
    assert shortcut("mm", (torch.zeros(2, 2), torch.zeros(2, 2)), {}) is NotImplemented
    assert shortcut("_foreach_mul_", ([torch.zeros(2)], 2.0), {}) is NotImplemented
    assert shortcut("native_layer_norm", (torch.zeros(2, 2), [2], None, None, 1e-5), {}) is NotImplemented
    assert shortcut("topk", (meta(4, 6), 2), {}) is NotImplemented


def test_in_place_gives_the_tensor_itself():
    one = meta(4, 6)
    assert shortcut("add_", (one, meta(4, 6)), {}) is one


def test_products():
    for dtype in (torch.float32, HALF):
        one, other, bias = meta(3, 4, dtype=dtype), meta(5, 4, dtype=dtype).t(), meta(5, dtype=dtype)
        assert described(shortcut("mm", (one, other), {})) == described(aten.mm(one, other))
        assert described(shortcut("addmm", (bias, one, other), {})) == described(aten.addmm(bias, one, other))


@pytest.mark.parametrize("dtype", [torch.float32, HALF, torch.bfloat16])
def test_layer_norm_and_its_gradients(dtype):
    x, weight, bias = meta(2, 3, 8, dtype=dtype), meta(8, dtype=dtype), meta(8, dtype=dtype)
    found = shortcut("native_layer_norm", (x, [8], weight, bias, 1e-5), {})
    assert described(found)[0] == described(x)
    # as CUDA's kernel saves them: one fp32 number a row for each
    assert described(found)[1:] == [((2, 3, 1), (3, 1, 1), torch.float32)] * 2
    for wanted in itertools.product([True, False], repeat=3):
        args = (x, x, [8], found[1], found[2], weight, bias, list(wanted))
        grads = shortcut("native_layer_norm_backward", args, {})
        assert described(grads) == [
            described(t) if asked else None for t, asked in zip((x, weight, bias), wanted, strict=True)
        ]


def test_lists_of_tensors():
    tensors = [meta(3), meta(2, 2)]
    assert described(shortcut("_foreach_sqrt", (tensors,), {})) == described(aten._foreach_sqrt(tensors))
    assert shortcut("_foreach_mul_", (tensors, 2.0), {}) is None


def test_every_shortcut_names_an_operator():
    assert all(hasattr(aten, name) for name in _ANSWERS)
