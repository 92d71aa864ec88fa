"""Why a model is slower or bigger than it was, by what torch did then and does now.

Calls and counts are exact: what differs in them is told always. Times of a profile are noise by tens of percent on a
busy machine: an operator whose calls are the same is told of only where its phase is REGRESSED, by a timed metric or by
its FLOPs, and only if enough of what the phase took more is its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_llmperf.profiling.kept import ALLOCATIONS, LEAST_SHARE, OTHERS, OUTSIDE, PHASES, VIEWS
from pytest_llmperf.results import Explanation, Grown
from pytest_llmperf.roles import is_wait
from pytest_llmperf.units import percent, short_number

MOST = 5
"""Operators of a phase that are told of."""
NOT_KEPT = "the baseline keeps no operators to compare with: the next --llmperf-update will"
NOTHING_GREW = "no operator grew: the change is not in what torch does"

_EQUAL = 0.001
"""Share by which counts may differ that are called the same."""
_TIMED = {"prefill": {"ttft_ms", "prefill_ms"}, "decode": {"tpot_ms", "itl_ms"}}
_TIMED_BOTH = {"latency_ms", "output_tokens_per_s", "total_tokens_per_s"}
_WORK = {"prefill": "prefill_flops", "decode": "flops_per_token"}
_OWN_SHARE = 0.5
"""Of what a phase took more, for one operator to be the reason."""
_PART = 0.1
"""Likewise, for an operator to be worth naming where there is more work, which has no single reason."""
_MOST_LONGER = 3
"""Operators named so, beside those that are called more often."""
_LONGER = 1.25
"""Times as long, for a time to count as another."""
_LEAST_SHARE = 0.05
"""Of a phase's time, that an operator must have added to be told of for its time alone."""
_FEWEST_ROWS = 5
"""Below which the pace of a whole process cannot be told from single operators."""
_TIMES_THE_WORK = 2.0
"""FLOPs per token, where those of the prompt are the same."""
_BY_POSITION = 0.5
"""How FLOPs grow with a token's position, as a power of it: 1 without a cache, near 0 with one."""
_WIDER = 1.5
"""Times the bytes for the same work."""

_FUSED = ("scaled_dot_product", "flash_attn", "fmha")
_EAGER = ("aten::_softmax", "aten::bmm", "aten::baddbmm", "aten::_safe_softmax")
_PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::mv", "aten::addmv", "aten::_grouped_mm")
_TRUTH = "aten::is_nonzero"
_READS = ("aten::_local_scalar_dense", _TRUTH, "aten::nonzero", "aten::equal")
_CONVERSION = "aten::_to_copy"
_COPY = "aten::copy_"


@dataclass(frozen=True)
class Seen:
    """What base or head was seen to do.

    Args:
        calls, times, decode_flops: as they are `Kept`; several processes one after the other.
        metrics: counted ones and memory, by name.
    """

    calls: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    times: Sequence[Mapping[str, Mapping[str, Sequence[float]]]] = ()
    decode_flops: Sequence[float] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def of(self, operator: str, phase: str) -> float:
        """Calls per step."""
        return self.calls.get(operator, {}).get(phase, 0.0)

    def milliseconds(self, phase: str) -> dict[str, tuple[float, float]]:
        """On the host and on the device by operator, the middle of what the processes took."""
        found: dict[str, list[tuple[float, float]]] = {}
        for process in self.times:
            for operator, by_phase in process.items():
                if phase in by_phase:
                    host, device = (*by_phase[phase], 0.0)[:2]
                    found.setdefault(operator, []).append((host, device))
        return {
            operator: (statistics.median(host for host, _ in each), statistics.median(device for _, device in each))
            for operator, each in found.items()
        }

    def not_kept(self, phase: str) -> float:
        """The most milliseconds that an operator can have taken of which none are kept."""
        taken = self.milliseconds(phase).items()
        return LEAST_SHARE * sum(host + device for operator, (host, device) in taken if operator != OUTSIDE)


@dataclass(frozen=True)
class Change:
    """From base to head.

    Args:
        regressed: the metrics that are.
        positions: of the first step of decode and of the last, in tokens.
    """

    base: Seen
    head: Seen
    regressed: Collection[str] = ()
    positions: tuple[int, int] = (1, 1)

    def ratio(self, metric: str) -> float | None:
        """Head's by base's; None where one is not known, or 0."""
        then, now = self.base.metrics.get(metric), self.head.metrics.get(metric)
        return now / then if then and now else None

    def equal(self, metric: str) -> bool:
        """Whether both are known, and the same."""
        ratio = self.ratio(metric)
        return ratio is not None and abs(ratio - 1) <= _EQUAL

    def grew(self, metric: str) -> bool:
        ratio = self.ratio(metric)
        return ratio is not None and ratio > 1 + _EQUAL

    def added(self, metric: str) -> float:
        """0 where one of them is not known."""
        then, now = self.base.metrics.get(metric), self.head.metrics.get(metric)
        return 0.0 if then is None or now is None else now - then

    @property
    def profiled(self) -> bool:
        """Whether both kept the calls of operators."""
        return bool(self.base.calls and self.head.calls)

    def more_calls(self, phase: str, operator: str) -> float:
        """Per step; 0 where that is not known."""
        return self.head.of(operator, phase) - self.base.of(operator, phase) if self.profiled else 0.0

    def changed(self, phase: str) -> list[str]:
        """Operators that are called more or less often."""
        names = sorted({*self.base.calls, *self.head.calls})
        return [name for name in names if abs(self.more_calls(phase, name)) > 1e-6]

    def slower(self, phase: str) -> bool:
        """Whether times of the phase may be looked at: it, or all of it, is slower than it was."""
        return not (_TIMED[phase] | _TIMED_BOTH).isdisjoint(self.regressed)


def explain(change: Change) -> Explanation:
    """The operators that grew, and the known causes that look like it."""
    hints: dict[str, str] = {}
    for rule, unless in _RULES.items():
        if hints.keys().isdisjoint(other.__name__ for other in unless) and (hint := rule(change)):
            hints[rule.__name__] = hint
    grown = {phase: rows for phase in PHASES if (rows := _grown(change, phase))}
    if not (hints or grown) and change.profiled and any(map(change.slower, PHASES)):
        hints[""] = NOTHING_GREW
    missing = NOT_KEPT if change.head.calls and not change.base.calls else ""
    return Explanation(grown, tuple(hints.values()), missing)


def _grown(change: Change, phase: str) -> tuple[Grown, ...]:
    then, now = _sums(change.base, phase), _sums(change.head, phase)

    def row(operator: str) -> Grown:
        calls = None if operator == OUTSIDE else (change.base.of(operator, phase), change.head.of(operator, phase))
        if not then or operator not in now:
            return Grown(operator, calls)
        least = change.base.not_kept(phase) if calls and calls[0] else 0.0
        before, after = then.get(operator, least), now[operator]
        return Grown(operator, calls, (before, after) if operator in then or after > before else None)

    def weight(operator: str) -> tuple[float, ...]:
        """Of what there is more: the time of the calls that were added, then their number; what does work first."""
        sides = (
            [(then, change.base.of(operator, phase)), (now, change.head.of(operator, phase))] if then and now else []
        )
        per_call = [times[operator] / calls for times, calls in sides if calls and operator in times]
        more = change.more_calls(phase, operator)
        return operator not in (VIEWS, ALLOCATIONS), more * min(per_call, default=0.0), more

    more = [name for name in change.changed(phase) if change.more_calls(phase, name) > 0]
    more.sort(key=weight, reverse=True)
    longer = _took_longer(change, phase)
    rows = [row(name) for name in [*longer, *more][:MOST]]
    return tuple(sorted(rows, key=_cost, reverse=True))


def _cost(row: Grown) -> float:
    """Milliseconds that there are more of; the least where that is not known."""
    return -math.inf if row.milliseconds is None else row.milliseconds[1] - row.milliseconds[0]


def _sums(seen: Seen, phase: str) -> dict[str, float]:
    """By operator: on the device where anything ran there, since the host only waits for it; else on the host."""
    found = seen.milliseconds(phase)
    on_device = any(device for _, device in found.values())
    return {
        operator: device if on_device and operator != OUTSIDE else host for operator, (host, device) in found.items()
    }


def _took_longer(change: Change, phase: str) -> list[str]:
    """Operators that take longer in as many calls, those first to which most of what the phase takes more is owed.

    For as much work it is one, to which half of it is owed, and the pace of all others is taken out first: a busy
    machine slows them alike. With more work, which slows whatever does it, there is no such pace.
    """
    then, now = _sums(change.base, phase), _sums(change.head, phase)
    more_work = _more_work(change, phase)
    if not (then and now) or not (more_work or change.slower(phase)):
        return []
    changed = change.changed(phase)
    if changed or more_work:  # then what lies between operators changes with them
        then.pop(OUTSIDE, None), now.pop(OUTSIDE, None)
    pace = 1.0 if more_work else _pace(then, now, _comparable(change, phase))
    share, most = (_PART, _MOST_LONGER) if more_work else (_OWN_SHARE, 1)
    before = pace * sum(then.values())
    least = max(_LEAST_SHARE * before, share * (sum(now.values()) - before))
    short = change.base.not_kept(phase)
    paced = {name: pace * then.get(name, short) for name in now if name != OTHERS and name not in changed}
    longer = [name for name in paced if now[name] >= max(_LONGER * paced[name], paced[name] + least)]
    return sorted(longer, key=lambda name: paced[name] - now[name])[:most]


def _more_work(change: Change, phase: str) -> bool:
    return _WORK[phase] in change.regressed


def _comparable(change: Change, phase: str) -> set[str]:
    """Operators of which there are as many."""
    return set(change.base.calls) - set(change.changed(phase)) - {OUTSIDE, OTHERS}


def _pace(then: Mapping[str, float], now: Mapping[str, float], names: Collection[str]) -> float:
    """How many times as long an operator takes that has not changed: a busy or throttled machine slows them all."""
    ratios = [now[name] / then[name] for name in names if then.get(name) and now.get(name)]
    return statistics.median(ratios) if len(ratios) >= _FEWEST_ROWS else 1.0


# Known causes, each a rule: the hint if the change looks like it


def no_cache(change: Change) -> str:
    """FLOPs per token grow with its position, or are many more for the same prompt."""
    ratio = change.ratio("flops_per_token") or 1.0
    power = _power(change.head.decode_flops, change.positions)
    by_position = power >= _BY_POSITION > _power(change.base.decode_flops, change.positions)
    many_more = ratio > _TIMES_THE_WORK and change.equal("prefill_flops")
    if not (many_more or (by_position and change.grew("flops_per_token"))):
        return ""
    growing = ", growing with its position" if by_position else ""
    return f"the cache is not used: a token takes {_times(ratio)} the FLOPs{growing}"


def _power(flops: Sequence[float], positions: tuple[int, int]) -> float:
    """Of the position, with which FLOPs grow; 0 where there is but one."""
    if len(flops) < 2 or not flops[0] or positions[1] <= positions[0]:
        return 0.0
    return (flops[-1] / flops[0] - 1) / (positions[1] / positions[0] - 1)


def new_sync(change: Change) -> str:
    more = change.added("syncs_per_token")
    if more <= 0:
        return ""
    names = [name for name in (*_READS, *_waits(change)) if change.more_calls("decode", name) > 0]
    by = f" ({_calls_of(change, 'decode', names)})" if names else ""
    truth = change.more_calls("decode", _TRUTH) > 0
    how = "a tensor in an if or while, or bool()" if truth else ".item(), .tolist(), int() or .cpu() of a tensor"
    return f"{short_number(more)} more wait{'s' * (more > 1)} of the host per token{by}: {how}"


def _waits(change: Change) -> list[str]:
    return [name for name in change.head.calls if is_wait(name)]


def wider_dtype(change: Change) -> str:
    if not (change.equal("flops_per_token") and change.equal("prefill_flops")):
        return ""
    names = {"weights_mib": "weights", "kv_bytes_per_token": "KV cache"}
    wider = [f"{said} {_times(ratio)}" for name, said in names.items() if (ratio := change.ratio(name) or 0) >= _WIDER]
    return f"{', '.join(wider)} the bytes for the same FLOPs: a wider dtype" if wider else ""


def conversions(change: Change) -> str:
    phases = [phase for phase in ("decode", "prefill") if change.more_calls(phase, _CONVERSION) >= 1]
    if not phases:
        return ""
    calls = _calls_of(change, phases[0], [_CONVERSION])
    return f"{calls} per {_step(phases[0])}: tensors converted to another dtype or device each time"


def eager_attention(change: Change) -> str:
    for phase in ("decode", "prefill"):
        changed = change.changed(phase)
        fewer = [n for n in changed if any(part in n for part in _FUSED) and change.more_calls(phase, n) < 0]
        single = [name for name in _EAGER if change.more_calls(phase, name) > 0]
        if fewer and single:
            calls = _calls_of(change, phase, single)
            return f"attention in single steps ({calls}) in place of a fused kernel: see attn_implementation"
    return ""


def more_copies(change: Change) -> str:
    more = {name: change.more_calls("decode", name) for name in ("aten::clone", "aten::cat", "aten::repeat")}
    by_others = more["aten::clone"] + change.more_calls("decode", _CONVERSION)
    more[_COPY] = change.more_calls("decode", _COPY) - max(0.0, by_others)  # both call it
    names = [name for name, added in more.items() if added >= 1]
    if not names:
        return ""
    calls = _calls_of(change, "decode", names)
    return f"more copies per token ({calls}): .clone(), .contiguous(), torch.cat() or an assignment to a slice"


def recompilation(change: Change) -> str:
    more = change.added("compiles")
    if more <= 0:
        return ""
    graphs = f"{short_number(more)} more graphs compiled, or broken, while serving"
    return f"{graphs}: shapes or values that change from call to call"


def whole_logits(change: Change) -> str:
    """Prefill does more in as many products, a step of decode does not: one of them has more rows."""
    products = any(change.more_calls("prefill", name) != 0 for name in _PRODUCTS)
    if products or not (change.grew("prefill_flops") and change.equal("flops_per_token")):
        return ""
    more = percent((change.ratio("prefill_flops") or 1.0) - 1, signed=True)
    return f"prefill FLOPs {more} in as many products, decode the same: logits of the whole prompt? see logits_to_keep"


def larger_model(change: Change) -> str:
    names = {"weights_mib": "weights", "flops_per_token": "FLOPs per token", "kv_bytes_per_token": "KV cache"}
    if not (change.grew("weights_mib") and change.grew("flops_per_token")):
        return ""
    grown = [f"{said} {_times(change.ratio(name) or 1.0)}" for name, said in names.items() if change.grew(name)]
    return f"the model is larger ({', '.join(grown)}): more layers, heads or width"


def leak(change: Change) -> str:
    if "leak_mib" not in change.regressed:
        return ""
    left = short_number(change.head.metrics.get("leak_mib", 0.0))
    return f"each call leaves {left} MiB of tensors behind: something keeps them"


def slower_operator(change: Change) -> str:
    """One operator takes longer for the same work."""
    for phase in PHASES:
        for name in [] if _more_work(change, phase) else _took_longer(change, phase):
            if name != OUTSIDE:
                then, now = _sums(change.base, phase).get(name), _sums(change.head, phase)[name]
                times = f"takes {_times(now / then)} as long" if then else "takes longer"
                return f"{name} {times} in as many calls: another kernel, layout or dtype, or larger tensors"
    return ""


def outside_operators(change: Change) -> str:
    if any(OUTSIDE in _took_longer(change, phase) for phase in PHASES):
        return "only time outside of torch's operators grew: Python between them, or waiting"
    return ""


def everything_slower(change: Change) -> str:
    """Operators of which there are as many take longer alike, on the host or throughout."""
    for phase in PHASES:
        if not change.slower(phase) or not change.profiled or change.changed(phase):
            continue
        names = _comparable(change, phase)
        then, now = change.base.milliseconds(phase), change.head.milliseconds(phase)
        host, device = (
            _pace({name: each[part] for name, each in then.items()}, {n: each[part] for n, each in now.items()}, names)
            for part in (0, 1)
        )
        if host >= _LONGER > device and any(each[1] for each in now.values()):
            return f"only host time grew, {_times(host)} for every operator: the processor is slower, or busier"
        if host >= _LONGER:
            return f"every operator takes {_times(host)} as long: the machine is slower or busier, not one of them"
    return ""


_RULES: Mapping[Callable[[Change], str], tuple[Callable[[Change], str], ...]] = {
    no_cache: (),
    wider_dtype: (),
    larger_model: (no_cache,),
    whole_logits: (),
    new_sync: (),
    eager_attention: (no_cache,),
    conversions: (no_cache, eager_attention),
    more_copies: (no_cache, eager_attention, conversions),
    recompilation: (),
    leak: (),
    slower_operator: (wider_dtype, larger_model, no_cache),
    everything_slower: (wider_dtype, larger_model, no_cache, slower_operator),
    outside_operators: (everything_slower,),
}
"""Each with those that would say the same better."""


def _calls_of(change: Change, phase: str, names: Iterable[str]) -> str:
    """`aten::clone 2 → 6, aten::cat 4 → 8`."""
    pairs = ((name, change.base.of(name, phase), change.head.of(name, phase)) for name in names)
    return ", ".join(f"{name} {short_number(then)} → {short_number(now)}" for name, then, now in pairs)


def _step(phase: str) -> str:
    return "token" if phase == "decode" else phase


def _times(ratio: float) -> str:
    return f"{ratio:.2g} ×" if ratio < 10 else f"{ratio:,.0f} ×"
