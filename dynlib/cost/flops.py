"""What an operator computes: a formula for each product, and which operators hold no product at all.

The convention is that of the papers. Only matrix products, convolutions and attention are FLOPs, and a multiply-add is
two of them. Everything else that a network does (elementwise functions, reductions, norms, softmax, pooling, sorting,
indexing, copies, random numbers) counts as zero. An operator that is known to be neither is an error and no zero.

Formulas follow ``torch.utils.flop_counter``, whose own are used where they are right: they get the operator's arguments
with every tensor replaced by its shape, and the shape of the result as ``out_shape``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, shape_wrapper

aten = torch.ops.aten
Shape = Sequence[int]
Formula = Callable[..., int]


def attended_pairs(queries: int, keys: int, *, causal: bool) -> int:
    """Query-key pairs that the CPU's attention kernel multiplies, for one head of one sample.

    Without ``causal`` it is all of them, whatever a mask says: a mask is added to scores that were computed. With
    ``causal``, blocks of queries meet blocks of 512 keys, and the key blocks after a query block's last token are
    skipped. A query block is 32 tokens, 64 from 192 queries on, 256 from 768 on. So up to 512 keys the causal square
    is computed whole, and half of it is saved only in the limit.
    """
    if not causal:
        return queries * keys
    block = 256 if queries >= 768 else 64 if queries >= 192 else 32
    pairs = 0
    for start in range(0, queries, block):
        end = min(start + block, queries)
        met = min(end, keys)
        pairs += (end - start) * min(-(-met // 512) * 512, keys)  # up to the last whole key block that is needed
    return pairs


def _attention(query: Shape, key: Shape, value: Shape, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    batch, heads, queries, dim = query
    return 2 * 2 * batch * heads * attended_pairs(queries, key[2], causal=causal) * dim  # q kᵀ, then weights · v


def _attention_backward(
    grad: Shape,
    query: Shape,
    key: Shape,
    value: Shape,
    out: Shape,
    logsumexp: Shape,
    dropout: float,
    causal: bool,
    **_: Any,
) -> int:
    # q kᵀ once more, then the gradients of the weights, of v, of q and of k: five products where the forward has two
    return 5 * _attention(query, key, value, dropout, causal) // 2


def _flex_attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    batch, heads, queries, dim = query
    return 2 * batch * heads * queries * key[2] * (dim + value[3])  # every pair, whatever a mask leaves out


def _flex_attention_backward(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    batch, heads, queries, dim = query
    return 2 * batch * heads * queries * key[2] * (3 * dim + 2 * value[3])


def _heads(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    batch, queries, dim = query
    projections = 2 * batch * (queries + key[1] + value[1] + queries) * dim * dim
    return projections + 4 * batch * queries * key[1] * dim


def _encoder_layer(tokens: Shape, *rest: Any, **_: Any) -> int:
    expand, contract = rest[13], rest[15]  # the weights of the feed-forward part
    return _heads(tokens, tokens, tokens) + 2 * prod(tokens[:2]) * (prod(expand) + prod(contract))


def _convolution_backward(grad: Shape, x: Shape, weight: Shape, *rest: Any, **_: Any) -> int:
    transposed, (for_input, for_weight, _bias) = rest[4], rest[7]
    # each of the two gradients multiplies what the forward did: every weight at every position
    forward = 2 * x[0] * prod((x if transposed else grad)[2:]) * prod(weight)
    return forward * (for_input + for_weight)


def _recurrent(x: Shape, into_input: Shape, into_state: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(x[:-1]) * (prod(into_input) + prod(into_state))  # at every step of every sample


def _recurrent_cuda(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return 2 * prod(x[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def _grouped(a: Tensor, b: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any) -> int:
    size: tuple[int, ...] = (*a.shape[-2:], b.shape[-1])  # rows · inner · columns, one of them split among the groups
    if offsets is None:
        return 2 * a.shape[0] * prod(size)
    split = {(2, 3): 0, (3, 3): 0, (2, 2): 1, (3, 2): 2}[a.ndim, b.ndim]
    used = size[split] if offsets.device.type == "meta" else int(offsets[-1])  # what lies behind the last is not read
    return 2 * used * prod(size[:split] + size[split + 1 :])


def _vectors(*shapes: Any, **_: Any) -> int:
    return 2 * prod(shapes[0])  # mv(matrix, vector), dot(vector, vector): one multiply-add per element of the first


FORMULAS: dict[Any, Formula] = {
    **{
        operator: shape_wrapper(formula)
        for operator, formula in {
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
            aten.convolution_backward: _convolution_backward,
            aten._native_multi_head_attention: _heads,
            aten._transformer_encoder_layer_fwd: _encoder_layer,
            aten.mkldnn_rnn_layer: _recurrent,
            aten.mkldnn_rnn_layer_backward: lambda *shapes, **_: 2 * _recurrent(*shapes),
            aten._cudnn_rnn: _recurrent_cuda,
            aten._cudnn_rnn_backward: lambda *shapes, **_: 2 * _recurrent_cuda(*shapes),
            aten.mv: _vectors,
            aten.dot: _vectors,
            aten.vdot: _vectors,
            aten.addmv: lambda _, *shapes, **__: _vectors(*shapes),
            aten.addr: lambda _, a, b, **__: 2 * a[0] * b[0],
            aten.addbmm: lambda _, a, b, **__: 2 * prod(a) * b[2],
            aten._int_mm: lambda a, b, **_: 2 * prod(a) * b[1],
            aten._addmm_activation: lambda _, a, b, *__, **___: 2 * prod(a) * b[1],
            # |x − y|² as one product of the points, each with two more coordinates
            aten._euclidean_dist: lambda a, b, **_: 2 * prod(a[:-1]) * (a[-1] + 2) * b[-2],
        }.items()
    },
    aten._grouped_mm: _grouped,  # needs the offsets, not their shape
}

# PyTorch 2.11 has none for these. By name, as what newer ones register them under is made when it is first used.
HIGHER_ORDER: dict[str, Formula] = {
    "flex_attention": shape_wrapper(_flex_attention),
    "flex_attention_backward": shape_wrapper(_flex_attention_backward),
}

# Operators without a product, by name; a leading underscore, a trailing one and "_backward" are dropped before looking.
# PyTorch itself marks most elementwise functions and reductions; these are the others.
_PLAIN = frozenset(
    """
    arange eye full ones zeros linspace logspace range scalar_tensor tril_indices triu_indices
    bernoulli binomial cauchy exponential geometric log_normal multinomial normal poisson random randperm uniform
    native_dropout fused_dropout masked_scale
    to_copy cat chunk_cat stack copy fill zero flip roll rot90 repeat repeat_interleave constant_pad_nd pixel_shuffle
    pixel_unshuffle channel_shuffle im2col col2im tril triu diag_embed block_diag lift unsafe_view unsafe_split
    unsafe_split_with_sizes select slice diagonal unfold select_scatter slice_scatter diagonal_scatter
    as_strided_scatter pin_memory pack_padded_sequence record_stream
    embedding embedding_bag embedding_bag_forward_only embedding_dense embedding_bag_dense embedding_renorm gather
    index index_add index_copy index_fill index_put index_put_impl index_reduce index_select unsafe_index
    unsafe_index_put masked_fill masked_scatter masked_select nonzero nonzero_static put take scatter scatter_add
    scatter_reduce bucketize searchsorted bincount histc isin
    sort topk kthvalue median nanmedian mode unique unique2 unique_dim unique_consecutive unique_dim_consecutive
    cumsum cumprod cummax cummin cummax_helper cummin_helper logcumsumexp dist trace allclose
    softmax log_softmax softmax_backward_data log_softmax_backward_data safe_softmax masked_softmax
    native_layer_norm native_group_norm native_batch_norm native_batch_norm_legit native_batch_norm_legit_no_training
    batch_norm_with_update batch_norm_no_update cudnn_batch_norm batch_norm fused_rms_norm weight_norm_interface renorm
    glu hardswish prelu_kernel rrelu_with_noise log_sigmoid_forward log_sigmoid floor_divide complex polar linalg_cross
    mse_loss huber_loss smooth_l1_loss soft_margin_loss multi_margin_loss multilabel_margin_loss_forward
    multilabel_margin_loss binary_cross_entropy binary_cross_entropy_with_logits
    nll_loss_forward nll_loss nll_loss2d_forward nll_loss2d
    thnn_fused_gru_cell thnn_fused_lstm_cell thnn_fused_lstm_cell_backward_impl
    fused_adam fused_adamw fused_sgd fused_adagrad amp_foreach_non_finite_check_and_unscale amp_update_scale
    local_scalar_dense is_same_size is_set_to is_pinned is_all_true is_any_true fused_sdp_choice
    efficientzerotensor convert_element_type broadcast_in_dim
    has_same_storage_numel assert_async assert_scalar assert_tensor_metadata linalg_check_errors print
    """.split()  # noqa: SIM905
)
_PLAIN_FAMILIES = (
    *("empty", "new_", "rand", "reflection_pad", "replication_pad"),
    *("avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "max_pool", "max_unpool", "fractional_max_pool"),
    *("upsample_", "grid_sampler_"),
)


def formula_for(func: Any, formulas: Mapping[Any, Formula]) -> Formula | None:
    """The formula of an operator: from ``formulas``, else ours, else PyTorch's."""
    packet = getattr(func, "_overloadpacket", func)
    for given in (func, packet):
        if given in formulas:
            return shape_wrapper(formulas[given])
    return _known_formula(packet)


def _known_formula(packet: Any) -> Formula | None:
    name = getattr(packet, "__name__", "")
    if packet not in FORMULAS and packet not in flop_registry and hasattr(aten, name.removesuffix("_")):
        twin = getattr(aten, name.removesuffix("_"))  # addmm_ works in place and computes what addmm does
        packet = twin if getattr(aten, name, None) is packet else packet
    ours = HIGHER_ORDER.get(name) if isinstance(packet, torch._ops.HigherOrderOperator) else None
    return FORMULAS.get(packet) or flop_registry.get(packet) or ours


def flops(func: Any, formula: Formula, args: Any, kwargs: Any, out: Any) -> int:
    """What one run of an operator computed.

    Raises:
        ValueError: if the formula gives no whole number from 0 on.
    """
    result = formula(*args, **kwargs, out_val=out)
    if isinstance(result, bool) or not isinstance(result, int) or result < 0:
        raise ValueError(f"the formula of {func} must return a whole number of FLOPs from 0 on; it returned {result!r}")
    # A complex multiply-add is four multiplications and four additions of real numbers.
    return 4 * result if any(isinstance(a, Tensor) and a.is_complex() for a in args) else result


@cache
def is_plain(func: Any) -> bool:
    """Whether an operator holds no matrix product, convolution or attention, as far as we can know that."""
    if not isinstance(func, torch._ops.OpOverload):
        return False  # control flow, compiled graphs and the like
    if torch.Tag.pointwise in func.tags or torch.Tag.inplace_view in func.tags or is_view(func):
        return True
    if func.namespace in ("profiler", "prim"):
        return True
    # prims are what PyTorch takes aten apart into, for one to differentiate forward
    return func.namespace in ("aten", "prims") and _is_plain_name(func._overloadpacket.__name__)


@cache
def is_composite(func: Any) -> bool:
    """Whether PyTorch runs an operator as a sequence of others, each of which is seen when it comes."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return isinstance(func, torch._ops.OpOverload) and func.has_kernel_for_dispatch_key(composite)


_CONTROL_FLOW = {"while_loop", "map_impl"}


def parts_of(func: Any) -> Callable[..., Any] | None:
    """What does the same by other operators, each of which is seen when it comes; None if nothing does."""
    if is_composite(func):
        return func.decompose
    if func is torch.ops.higher_order.cond:
        return lambda chosen, yes, no, operands: (yes if chosen else no)(*operands)
    if isinstance(func, torch._ops.HigherOrderOperator) and func.name() in _CONTROL_FLOW:
        return func.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd)
    return None


def is_view(func: Any) -> bool:
    """Whether an operator gives another view of its input and touches no element."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _is_plain_name(name: str) -> bool:
    if name.startswith("_foreach_"):  # the same for every tensor of a list
        return _is_plain_name(name.removeprefix("_foreach_"))
    stem = name.strip("_").removesuffix("_copy").removesuffix("_backward")
    if stem in _PLAIN or stem.endswith("_like") or stem.startswith(_PLAIN_FAMILIES):
        return True
    # PyTorch marks some overloads of a function and forgets others: one marked overload speaks for them all
    packets = [getattr(aten, known) for known in {name, name.strip("_"), stem} if hasattr(aten, known)]
    overloads = [getattr(packet, overload) for packet in packets for overload in packet.overloads()]
    reduction = getattr(torch.Tag, "reduction", torch.Tag.pointwise)
    return any(is_view(o) or torch.Tag.pointwise in o.tags or reduction in o.tags for o in overloads)
