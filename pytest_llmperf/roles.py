"""What part an operator plays in serving a model: the documented table behind every split of a profile.

Names are looked up without their namespace and without the underscores around them, so that `aten::_to_copy` and
`aten::add_` are found as `to_copy` and `add`. Patterns are those of `fnmatch`; the first role that has one wins.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Enum
from fnmatch import translate
from functools import lru_cache
from types import MappingProxyType

from pytest_llmperf.errors import UsageError, did_you_mean


class Role(str, Enum):
    """Declared in the order in which they are shown."""

    COMPUTE = "compute"
    """What a model is for: its products, attention and convolutions."""
    ELEMENTWISE = "elementwise"
    """Its light maths, which compilers fuse: bound by memory traffic."""
    OVERHEAD = "overhead"
    """Moves, reshapes, looks up, waits and launches; computes nothing of the model."""
    OTHER = "other"
    """Not in the table."""


PATTERNS: Mapping[Role, Mapping[str, str]] = MappingProxyType(
    {
        Role.COMPUTE: {
            "matrix products": "mm addmm* bmm baddbmm addbmm mv addmv addr dot vdot inner matmul einsum tensordot "
            "linear* *_linear* qlinear* bilinear outer *_mm *_mm_for_cpu *_mm_with_* "
            "*scaled_mm* *grouped_mm* dyn_quant_matmul* *gemm* *gemv* int8_*_matmul* triton_tem_*",
            "attention": "scaled_dot_product_*attention* *flash_attention* efficient_attention* cudnn_attention* "
            "*flash_attn* *paged_attention* native_multi_head_attention flex_attention* triton_flex_*",
            "convolutions": "conv[123]d* conv_* convolution* *_convolution* thnn_conv* slow_conv* conv_depthwise*",
            "recurrences": "*lstm* *gru *gru_cell* rnn_* *_rnn_layer *selective_scan* *causal_conv1d* *chunk_scan*",
        },
        Role.OVERHEAD: {
            "reading a scalar": "local_scalar_dense item is_nonzero equal nonzero",
            "copies": "copy clone contiguous to to_copy *_copy cat stack concat* hstack vstack repeat* "
            "roll flip pad constant_pad_nd tile type_as chunk_cat lazy_clone pin_memory lift_fresh Memcpy* Memset*",
            "conversions": "convert_element_type quantize_* dequantize* choose_qparams* *_qparams*",
            "making tensors": "tensor empty* new_* zeros* ones* full* zero fill arange range linspace eye "
            "scalar_tensor one_hot rand* normal uniform bernoulli multinomial resize* set",
            "views": "view* as_strided* reshape* unsafe_view transpose t mT permute movedim expand* squeeze* "
            "unsqueeze* slice* select narrow* split* chunk tensor_split unbind flatten unflatten alias detach* unfold* "
            "diagonal* swap* moveaxis ravel unsafe_split* unsafe_chunk meshgrid broadcast_* resolve_* result_type",
            "indexing": "index* unsafe_index* embedding* gather* scatter* take* put* searchsorted bucketize histc "
            "bincount unique*",
            "masks": "masked_* where eq ne lt le gt ge isin isfinite isnan isinf logical_* bitwise_* and or xor "
            "any all tril* triu*",
            "waiting and launching": "cuda* cu[A-Z]* hip* Activity* Lazy?Function* Runtime?Triggered* Command?Buffer* "
            "fused_sdp_choice record_stream",
            "a compiler's guards": "TorchDynamo* Torch-Compiled* AOTDispatcher* Pregraph* CUDAGraph* assert_*",
        },
        Role.ELEMENTWISE: {
            "arithmetic": "add* sub* rsub mul* div* floor_divide remainder fmod neg abs sign reciprocal square pow "
            "sqrt rsqrt exp* log* sin* cos* tan* polar erf* clamp* maximum minimum floor ceil round lerp foreach_* "
            "trunc true_divide",
            "activations": "*relu* gelu* silu* *sigmoid softplus mish hardtanh hardswish elu selu *glu* dropout* "
            "native_dropout",
            "norms": "*layer_norm* *rms_norm* *group_norm* *batch_norm* *norm",
            "reductions": "*softmax sum mean amax amin max min argmax argmin topk sort argsort cumsum cumprod prod "
            "var* std* *sumexp *pool[123]d*",
            "fused by a compiler": "triton_* cpp_fused* graph_*_cpp_fused* ##?Call?CompiledFxGraph*",
        },
    }
)


def _compiled(role: Role) -> re.Pattern[str]:
    patterns = " ".join(PATTERNS[role].values()).split()
    return re.compile("|".join(map(translate, patterns)))


_RECOGNISED = {role: _compiled(role) for role in PATTERNS}
_NAMESPACE = re.compile(r"^\w+::")
_COULD_BE_TYPED = re.compile(r"\w+::\w+|(?!triton_|cu|hip)[a-z0-9_]+")
"""The name of an operator of torch, or of something that a user has named like one."""
_WAIT = re.compile(r"^(cuda|cu|hip)\w*Synchronize")


def is_operator(name: str) -> bool:
    """Whether a profile's event is an operator of torch, and not of Python or the driver."""
    return bool(_NAMESPACE.match(name))


def is_wait(name: str) -> bool:
    """Whether the host waits in it for the device."""
    return bool(_WAIT.match(name))


def called(operator: str, name: str) -> bool:
    """Whether the name is that operator's: whole, without its namespace, or without the underscores before it."""
    given, own = _NAMESPACE.match(name), _NAMESPACE.match(operator)
    return _bare(operator) == _bare(name) and (not given or bool(own and own[0] == given[0]))


def check_operator(name: str) -> None:
    """Once torch is imported.

    Raises:
        UsageError: it has no operator of that name, nor is this one of a library that it does not know.
    """
    torch = sys.modules.get("torch")
    if torch is None or not _COULD_BE_TYPED.fullmatch(name):
        return
    known = {each.partition(".")[0] for each in torch._C._dispatch_get_all_op_names()}
    space = _NAMESPACE.match(name)
    if any(called(each, name) for each in known) or (space and not any(each.startswith(space[0]) for each in known)):
        return
    near = did_you_mean(name, known if space else map(_bare, known))
    raise UsageError(f"find({name!r}): torch has no such operator{near}")


def _bare(name: str) -> str:
    return _NAMESPACE.sub("", name).lstrip("_")


@lru_cache(maxsize=4096)
def role_of(operator: str) -> Role:
    """The role of an operator, by its name in `torch.profiler`."""
    name = _NAMESPACE.sub("", operator).strip("_ ")
    return next((role for role, names in _RECOGNISED.items() if names.fullmatch(name)), Role.OTHER)
