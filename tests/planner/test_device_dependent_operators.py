"""Operators whose behaviour on a card `meta` cannot show: every one must be handled or known to be harmless.

A new PyTorch that adds one fails here with its name. Then either `planner.emulate` learns it, or it joins a list below
with the reason.
"""

from __future__ import annotations

import pytest
import torch
import torch._meta_registrations  # the kernels for `meta` that are written in Python
from torch import _C

from fromzero.planner import emulate
from fromzero.planner.trace import _ANSWERS

# CUDA has a kernel of its own where `meta` takes the operator apart. In backward, autograd calls the backward operator
# by its name, and what it is taken apart into gives back its temporaries before it returns: proved by the oracle.
TAKEN_APART = {"_fused_rms_norm", "mish_backward", "silu_backward"}

# Only a card's own composite operators call these, and `meta` never reaches them.
NEVER_REACHED = """
_cudnn_attention_backward _cudnn_attention_forward _cudnn_ctc_loss _cudnn_ctc_loss.Tensor _use_cudnn_ctc_loss
_use_cudnn_ctc_loss.Tensor cudnn_affine_grid_generator cudnn_affine_grid_generator_backward cudnn_convolution
cudnn_convolution_add_relu cudnn_convolution_relu cudnn_convolution_transpose cudnn_grid_sampler
cudnn_grid_sampler_backward _conv_depthwise2d conv_depthwise3d _slow_conv2d_forward _slow_conv2d_backward.grad_input
slow_conv_dilated2d slow_conv_dilated3d slow_conv_transpose3d _thnn_fused_gru_cell _thnn_fused_gru_cell_backward
_triton_multi_head_attention _triton_scaled_dot_attention _transform_bias_rescale_qkv _masked_softmax
_masked_softmax_backward _cslt_compress _mixed_dtypes_linear batch_norm_stats batch_norm_elemt
batch_norm_backward_elemt batch_norm_backward_reduce batch_norm_gather_stats batch_norm_gather_stats_with_counts
batch_norm_update_stats _padded_dense_to_jagged_forward glu_jvp glu_backward_jvp record_stream is_set_to
""".split()

# Sizes that depend on numbers, or operators that no step of training calls: a trace that meets one says so and stops.
STOPS_THE_TRACE = """
_ctc_loss.Tensor _ctc_loss_backward _ctc_loss_backward.Tensor _unique _unique2 unique_dim unique_dim_consecutive
unique_consecutive masked_select bincount equal binomial _sample_dirichlet _dirichlet_grad _standard_gamma_grad
_compute_linear_combination geqrf geqrf.a _cummin_helper _cummax_helper _logcumsumexp _aminmax _aminmax.dim
fractional_max_pool3d_backward fractional_max_pool3d_backward.grad_input adaptive_avg_pool3d_backward.grad_input
multi_margin_loss_backward multi_margin_loss_backward.grad_input multilabel_margin_loss_backward
multilabel_margin_loss_backward.grad_input
""".split()

OTHER_BACKENDS = ("miopen", "_use_miopen")
VARIANTS = ("out", "sparse", "quant", "nested", "foreach")

pytestmark = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="a PyTorch without CUDA does not know CUDA's kernels"
)


def operators():
    return [each.removeprefix("aten::") for each in _C._dispatch_get_all_op_names() if each.startswith("aten::")]


def has(name, key):
    return _C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)


def test_operators_that_cuda_does_not_take_apart():
    found = {each for each in operators() if has(each, "CUDA") and has(each, "CompositeImplicitAutograd")}
    assert not found - TAKEN_APART, f"CUDA has its own kernel for {sorted(found - TAKEN_APART)}: see the oracle"


def test_operators_that_meta_lacks():
    composite = ("Meta", "CompositeExplicitAutograd", "CompositeImplicitAutograd")
    found = {
        each
        for each in operators()
        if has(each, "CUDA")
        and not any(has(each, key) for key in composite)
        and not any(part in each for part in VARIANTS)
        and not each.startswith(OTHER_BACKENDS)
    }
    answered = {each for each in found if each.partition(".")[0] in _ANSWERS}
    unknown = found - answered - set(NEVER_REACHED) - set(STOPS_THE_TRACE)
    assert not unknown, f"no kernel on meta, and none of ours: {sorted(unknown)}"


def test_every_operator_of_the_policy_exists():
    """A misspelt name would be left out without a word."""
    from fromzero.planner import policy

    new = {"linalg_vecdot", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "norm"}  # not in every release
    for names in (policy.LOWER, policy.FULL, policy.FULL_RESULT, policy.WIDEST):
        missing = {each for each in names if emulate.operator_named(each) is None}
        assert not missing - new
