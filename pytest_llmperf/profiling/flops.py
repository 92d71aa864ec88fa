"""Floating-point operations, and the bytes of weights read, counted operator by operator below autograd.

torch's own formulas count a multiply-add as two, for matrix products, convolutions and attention; attention in full,
masked or not. They lack what a CPU runs fused, and grouped experts: without these a change of kernel would look like
a change of work.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pytest_llmperf.model import Unknown, Work
from pytest_llmperf.parts import summed
from pytest_llmperf.profiling import NO_OPERATOR, NO_PRODUCT, NOT_BY_TOKEN, NOT_IN_DECODE, ONE_TOKEN
from pytest_llmperf.targets import Request, Target
from pytest_llmperf.targets.tensors import own_part

Formula = Callable[..., int]
"""`(*args, out_val, **kwargs)` of an operator, as it was called, to FLOPs."""


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    """Queries (b, h, s, d), keys (b, h', t, d) and values (b, h', t, e), where a key may serve several heads."""
    batch, heads, queries, width = query.shape
    return int(2 * batch * heads * queries * key.shape[2] * (width + value.shape[3]))


def _grouped(one: torch.Tensor, other: torch.Tensor, *args: Any, out_val: torch.Tensor, **kwargs: Any) -> int:
    """Rows (m, k) or experts (g, m, k), times experts (g, k, n) or columns (k, n): each row meets one expert."""
    if one.ndim == 2 and other.ndim == 2:  # (m, k) and (k, n) split along k into groups: an output each
        return 2 * one.shape[0] * one.shape[1] * other.shape[1]
    return 2 * out_val.numel() * one.shape[-1]


def _times_rows(rows: torch.Tensor, *args: Any, out_val: torch.Tensor, **kwargs: Any) -> int:
    """(…, k) times packed weights of n columns, whose shape is not to be seen: the output says n."""
    return 2 * out_val.numel() * rows.shape[-1]


def _vector(matrix: torch.Tensor, vector: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _added_vector(bias: torch.Tensor, matrix: torch.Tensor, vector: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * matrix.numel()


_MORE: Mapping[str, Formula] = MappingProxyType(
    {
        "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
        "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
        # torch has these, in older versions only for as many heads of keys as of queries.
        "aten::_scaled_dot_product_flash_attention": _attention,
        "aten::_scaled_dot_product_efficient_attention": _attention,
        "aten::_scaled_dot_product_cudnn_attention": _attention,
        "aten::_grouped_mm": _grouped,
        "aten::_scaled_grouped_mm": _grouped,
        "aten::_int_mm": _times_rows,
        "aten::_weight_int8pack_mm": _times_rows,
        "aten::_weight_int4pack_mm": _times_rows,
        "aten::_weight_int4pack_mm_for_cpu": _times_rows,
        "aten::mkldnn_linear": _times_rows,
        "aten::mv": _vector,
        "aten::dot": _vector,
        "aten::addmv": _added_vector,
        "quantized::linear": _times_rows,
        "quantized::linear_dynamic": _times_rows,
        "quantized::linear_dynamic_fp16": _times_rows,
        "mkldnn::_linear_pointwise": _times_rows,
        "onednn::qlinear_pointwise": _times_rows,
    }
)
_PACKED_BYTES = MappingProxyType(
    {"quantized::linear": 1, "quantized::linear_dynamic": 1, "quantized::linear_dynamic_fp16": 2}
)
"""Of a weight inside an object that is no tensor."""
_ROWS_ONLY = frozenset({"aten::embedding", "aten::index_select", "aten::index", "aten::gather"})
"""They read of their first argument as much as they give, and not more than there is."""
_KNOWN_NAMESPACES = frozenset(
    {"aten", "prims", "prim", "profiler", "c10d", "_c10d_functional", "quantized", "inductor"}
)
"""Operators of these do no work that the formulas lack; others may."""


def _formulas() -> dict[Any, Formula]:
    """By operator: ours, of those that this torch has, and torch's for all others."""
    return {**flop_registry, **{operator: formula for name, formula in _MORE.items() if (operator := _operator(name))}}


def _operator(name: str) -> Any:
    namespace, _, own = name.partition("::")
    return getattr(getattr(torch.ops, namespace), own, None)


@dataclass
class _Tally:
    """What was counted since the last step began.

    Args:
        weight_bytes: of weights read; an operator that reads the same ones again adds nothing.
        operators: in all steps.
        foreign: operators of other libraries that take several tensors, whose work is not known; in all steps.
    """

    flops: int = 0
    weight_bytes: int = 0
    operators: int = 0
    foreign: set[str] = field(default_factory=set)
    _read: set[tuple[int, int, int]] = field(default_factory=set)

    def taken(self) -> tuple[int, int]:
        """The step's FLOPs and bytes of weights; begins the next one."""
        step = self.flops, self.weight_bytes
        self.flops = self.weight_bytes = 0
        self._read.clear()
        return step

    def reads(self, weights: torch.Tensor) -> None:
        part = weights.untyped_storage().data_ptr(), int(weights.storage_offset()), weights.numel()
        if part not in self._read:
            self._read.add(part)
            self.weight_bytes += weights.numel() * weights.element_size()


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    supports_higher_order_operators = True

    def __init__(self, tally: _Tally, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor here
        self._tally = tally
        self._formulas = _formulas()
        self._weights = {own_part(tensor).untyped_storage().data_ptr() for tensor in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(each.__module__.startswith("torch.distributed.") for each in types):
            return NotImplemented  # by DTensors the work of all ranks: what they hand on is that of this one
        kwargs = kwargs or {}
        formula = self._formulas.get(getattr(func, "overloadpacket", func))
        higher = isinstance(func, HigherOrderOperator)  # it takes functions, which then run out of our sight
        if formula is None and not higher and func is not torch.ops.prim.device.default:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        out = func(*args, **kwargs)
        self._tally.operators += 1
        if formula is not None:
            self._tally.flops += int(formula(*args, **kwargs, out_val=out))
        elif higher or (func.namespace not in _KNOWN_NAMESPACES and _several_tensors(args, kwargs)):
            self._tally.foreign.add(str(func) if higher else func._schema.name)
        if not higher:
            self._note_reads(func._schema.name, args, kwargs, out)
        return out

    def _note_reads(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        given = out if isinstance(out, torch.Tensor) else None
        if given is not None and name in _PACKED_BYTES:
            self._tally.weight_bytes += given.shape[-1] * args[0].shape[-1] * _PACKED_BYTES[name]
        for tensor in (*args, *kwargs.values()):
            if not isinstance(tensor, torch.Tensor) or not self._is_weight(tensor):
                continue
            if given is not None and _same_storage(given, tensor):  # a view reads nothing
                return
            if name in _ROWS_ONLY and given is not None:
                self._tally.weight_bytes += min(given.numel(), tensor.numel()) * tensor.element_size()
            elif name.endswith("_grouped_mm") and tensor.ndim == 3:
                self._tally.weight_bytes += _experts_hit(args, kwargs) * tensor[0].numel() * tensor.element_size()
            else:
                self._tally.reads(tensor)

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() in self._weights


def _several_tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether more than one tensor is given, or object that may hold one: of these, a product may be made."""
    given = _pytree.tree_leaves((args, kwargs))
    return sum(isinstance(value, (torch.Tensor, torch.ScriptObject)) for value in given) > 1


def _same_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _experts_hit(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """How many groups of a grouped product have rows."""
    offsets = kwargs.get("offs", args[2] if len(args) > 2 else None)
    if offsets is None:
        return int(args[1].shape[0])
    ends = [0, *offsets.tolist()]
    return sum(after > before for before, after in pairwise(ends))


def eager() -> AbstractContextManager[object]:
    """What is compiled runs as it was written, and nothing is compiled."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


_NO_WEIGHTS = Unknown("the model's weights are out of sight")


@dataclass(frozen=True)
class Counted:
    """The work of both phases, and FLOPs of each step of decode."""

    prefill: Work
    decode: Work
    flops_by_step: tuple[int, ...] = ()

    @classmethod
    def unseen(cls, why: Unknown) -> Counted:
        return cls(Work(why, why), Work(why, why))

    @classmethod
    def of_all(cls, parts: Sequence[Counted]) -> Counted:
        """The work that ranks share."""
        steps = zip(*(part.flops_by_step for part in parts), strict=False)  # none where they are unknown
        return cls(
            summed([part.prefill for part in parts]),
            summed([part.decode for part in parts]),
            tuple(map(sum, steps)),
        )


def work(target: Target, request: Request) -> Counted:
    """Serve the request once more, eagerly, and count what it takes.

    A compiled model that runs under a dispatch mode falls back to eager for good (seen with torch 2.13), unless
    it is told to be eager for so long. The work is the same.
    """
    steps: list[tuple[int, int]] = []
    tally = _Tally()
    weights = [*target.model.parameters(), *target.model.buffers()] if target.model is not None else []
    with eager(), _Counting(tally, weights):
        hidden = target.step_through(request, lambda: steps.append(tally.taken()))
    if hidden := hidden or _hidden(tally, steps, request.workload.output_tokens):
        return Counted.unseen(hidden)
    prefill, *decode = (Work(flops, read if weights else _NO_WEIGHTS) for flops, read in steps)
    if not decode:
        return Counted(prefill, Work(ONE_TOKEN, ONE_TOKEN))
    by_step = tuple(flops for flops, _ in steps[1:])
    read = statistics.fmean(read for _, read in steps[1:]) if weights else _NO_WEIGHTS
    return Counted(prefill, Work(statistics.fmean(by_step), read), by_step)


def _hidden(tally: _Tally, steps: Sequence[tuple[int, int]], output_tokens: int) -> Unknown | None:
    """Why what was counted is not all of it."""
    if not tally.operators:
        return NO_OPERATOR
    if len(steps) != output_tokens:
        return NOT_BY_TOKEN
    if tally.foreign:
        return Unknown(f"what {', '.join(sorted(tally.foreign))} does is not known")
    if not any(flops for flops, _ in steps):
        return NO_PRODUCT
    return None if len(steps) == 1 or any(flops for flops, _ in steps[1:]) else NOT_IN_DECODE
