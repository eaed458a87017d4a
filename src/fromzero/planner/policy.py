"""What CUDA decides by rules of PyTorch: the precision of an operator under autocast, the kernel of attention.

The lists are those of `ATen/autocast_mode.h`, PyTorch 2.6 to 2.14; the rules of attention those of
`ATen/native/transformers/cuda/sdp_utils.cpp` as of 2.14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# --- autocast -------------------------------------------------------------------------------------------------------

# Run in the lower precision: matrix products and convolutions.
LOWER = """
_convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input conv_transpose3d.input convolution
prelu addmm addmv addr matmul einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot
_thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
_scaled_dot_product_flash_attention scaled_dot_product_attention
""".split()

# Run in fp32: what loses too much in half precision.
FULL = """
acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar pow.Tensor_Tensor
pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim nuclear_norm nuclear_norm.dim
cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss
smooth_l1_loss huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss
multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp upsample_nearest1d
_upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d _upsample_nearest_exact3d
upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d upsample_bicubic2d
_upsample_bicubic2d_aa
""".split()

# Keep their input and are asked for an fp32 result.
FULL_RESULT = """
prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
linalg_matrix_norm.str_ord sum sum.dim_IntList
""".split()

# Run in the widest precision among their inputs.
WIDEST = """
addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put tensordot scatter_add cat stack vdot
""".split()

# --- attention ------------------------------------------------------------------------------------------------------

Capability = tuple[int, int]


@dataclass(frozen=True)
class Attention:
    """A call of scaled dot product attention. Shapes are (batch, heads, length, head size); `mask` is the shape of the
    mask, if there is one; `element` the bytes of a number; `packed` says that the last dimension of everything lies
    without gaps; `offset` divides the bytes at which each of the three begins in a larger tensor, 0 if none does."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    dtype: str
    element: int
    mask: tuple[int, ...] | None
    mask_learns: bool
    dropout: float
    causal: bool
    grouped: bool
    learns: bool
    packed: bool
    offset: int


def attention_backend(call: Attention, capability: Capability, torch: tuple[int, int] = (2, 14)) -> str:
    """The kernel that CUDA runs: "cudnn", "flash", "efficient" or "math", the first in its order that takes the call.
    `torch` is the release, major and minor."""
    order: tuple[str, ...] = ("flash", "efficient")
    if capability[0] in (9, 10) and torch >= _CUDNN_FIRST:  # data centre cards; 12.x keeps flash first
        order = ("cudnn", *order)
    return next((each for each in order if _TAKES[each](call, capability, torch)), "math")


_CUDNN_FIRST = (2, 9)
_ANY_HEADS = (2, 14)  # grouped heads in the efficient kernel, and a single key head without being asked for
_HALF = ("float16", "bfloat16")


def _flash(call: Attention, capability: Capability, torch: tuple[int, int]) -> bool:
    head = call.q[-1]
    return (
        _shapes(call, torch, grouped=True)
        and call.mask is None
        and call.dtype in _HALF
        and (8, 0) <= capability <= (12, 1)
        and head == call.k[-1] == call.v[-1]
        and head <= 256
        and not (call.learns and _small_shared_memory(capability) and _wide(head, call.dropout))
        and not (call.causal and call.q[-2] != call.k[-2])
    )


def _small_shared_memory(capability: Capability) -> bool:
    """GeForce and workstation cards of Ampere, Ada and Blackwell hold less of a block than the data centre's do."""
    return (8, 6) <= capability <= (8, 9) or (12, 0) <= capability <= (12, 1)


def _wide(head: int, dropout: float) -> bool:
    """Heads whose backward pass does not fit such a card."""
    return 192 < head <= 224 or (head > 224 and dropout > 0)


def _efficient(call: Attention, capability: Capability, torch: tuple[int, int]) -> bool:
    align = _alignment(call, capability)
    return (
        _shapes(call, torch, grouped=torch >= _ANY_HEADS)
        and (5, 0) <= capability <= (12, 1)
        and call.q[-1] == call.k[-1]
        and call.q[-1] % align == call.v[-1] % align == 0
        and (call.dtype in ("float32", "float16") or (call.dtype == "bfloat16" and capability >= (8, 0)))
        and (capability < (8, 0) or call.offset % (align * call.element) == 0)
    )


def _alignment(call: Attention, capability: Capability) -> int:
    """How many numbers a load of the matrix units takes: head sizes must be multiples."""
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and call.dtype in _HALF)
    return max(4 if capability >= (8, 0) else 1, 16 // call.element if tensor_cores else 1)


def _cudnn(call: Attention, capability: Capability, torch: tuple[int, int]) -> bool:
    """cuDNN 9.15.1 to 9.22; the newer ones take heads up to 256 where flash would, which costs the same memory."""
    return (
        _shapes(call, torch, grouped=True)
        and call.dtype in _HALF
        and call.q[-1] <= 128 >= call.v[-1]
        and call.q[-1] % 8 == call.v[-1] % 8 == 0
        and (call.dropout * 16).is_integer()
        and call.k[-2] != 1
        and not (call.dropout and call.q[-2] == 1)
        and (call.mask is None or (not call.mask_learns and _broadcasts(call)))
    )


def _broadcasts(call: Attention) -> bool:
    assert call.mask is not None
    full = (*call.q[:-1], call.k[-2])
    return len(call.mask) in (2, 4) and all(
        own in (1, wanted) for own, wanted in zip(call.mask[::-1], full[::-1], strict=False)
    )


def _shapes(call: Attention, torch: tuple[int, int], grouped: bool) -> bool:
    """What every fused kernel asks for."""
    if not (len(call.q) == len(call.k) == len(call.v) == 4 and call.packed and call.q[-2] and call.k[-2]):
        return False
    if not call.q[0] == call.k[0] == call.v[0]:
        return False
    heads, keys, values = call.q[1], call.k[1], call.v[1]
    if call.grouped and grouped:
        return keys == values and heads % keys == 0
    return heads == keys == values or (torch >= _ANY_HEADS and keys == values == 1)


_TAKES: dict[str, Callable[[Attention, Capability, tuple[int, int]], bool]] = {
    "flash": _flash,
    "efficient": _efficient,
    "cudnn": _cudnn,
}
