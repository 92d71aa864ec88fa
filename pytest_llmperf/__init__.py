"""Speed and memory of language models as something a test can assert and a pull request can break.

    from pytest_llmperf import llm_perf, ttft_ms, tpot_ms

    @llm_perf(ttft_ms < 50, tpot_ms < 8, model="gpt2", prompt_tokens=512, output_tokens=128)
    def test_chat_turn(llm):
        llm.measure()

Names are loaded when they are first used: a run without tests that measure pays for none of them.

PYTEST_DONT_REWRITE: the processes of a duet have this imported before pytest could, which would be a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_llmperf.limits import Expression
    from pytest_llmperf.mark import llm_perf, variants
    from pytest_llmperf.model import Measurement, Profile, Workload
    from pytest_llmperf.scaling import Scaling
    from pytest_llmperf.session import Llm
    from pytest_llmperf.targets.endpoint import endpoint
    from pytest_llmperf.targets.references import random_weights
    from pytest_llmperf.targets.stream import stream

    acceptance_rate: Expression
    activations_mib: Expression
    cold_ttft_ms: Expression
    compiles: Expression
    cost_per_million_tokens: Expression
    detokenize_ms: Expression
    device_gpu_mib: Expression
    energy_j_per_token: Expression
    failed_share: Expression
    flops_per_token: Expression
    fragmentation_mib: Expression
    goodput_per_s: Expression
    itl_ms: Expression
    kernels_per_token: Expression
    kv_bytes_per_token: Expression
    kv_cache_mib: Expression
    latency_ms: Expression
    leak_mib: Expression
    load_s: Expression
    mbu: Expression
    mfu: Expression
    ops_per_token: Expression
    output_tokens_per_s: Expression
    peak_memory_mib: Expression
    peak_reserved_mib: Expression
    peak_rss_mib: Expression
    prefill_flops: Expression
    prefill_ms: Expression
    process_gpu_mib: Expression
    requests_per_s: Expression
    syncs_per_token: Expression
    tokenize_ms: Expression
    tokens_per_step: Expression
    total_tokens_per_s: Expression
    tpot_ms: Expression
    ttft_ms: Expression
    weights_mib: Expression

__version__ = "0.1.0"

__all__ = [
    "Llm",
    "Measurement",
    "Profile",
    "Scaling",
    "Workload",
    "acceptance_rate",
    "activations_mib",
    "cold_ttft_ms",
    "compiles",
    "cost_per_million_tokens",
    "detokenize_ms",
    "device_gpu_mib",
    "endpoint",
    "energy_j_per_token",
    "failed_share",
    "flops_per_token",
    "fragmentation_mib",
    "goodput_per_s",
    "itl_ms",
    "kernels_per_token",
    "kv_bytes_per_token",
    "kv_cache_mib",
    "latency_ms",
    "leak_mib",
    "llm_perf",
    "load_s",
    "mbu",
    "mfu",
    "ops_per_token",
    "output_tokens_per_s",
    "peak_memory_mib",
    "peak_reserved_mib",
    "peak_rss_mib",
    "prefill_flops",
    "prefill_ms",
    "process_gpu_mib",
    "random_weights",
    "requests_per_s",
    "stream",
    "syncs_per_token",
    "tokenize_ms",
    "tokens_per_step",
    "total_tokens_per_s",
    "tpot_ms",
    "ttft_ms",
    "variants",
    "weights_mib",
]

_HOMES = {
    "Llm": "session",
    "Measurement": "model",
    "Profile": "model",
    "Scaling": "scaling",
    "Workload": "model",
    "endpoint": "targets",
    "llm_perf": "mark",
    "random_weights": "targets",
    "stream": "targets",
    "variants": "mark",
}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    import importlib.util

    if name in _HOMES:
        return getattr(importlib.import_module(f"pytest_llmperf.{_HOMES[name]}"), name)
    if name in __all__:  # all others are metrics
        return importlib.import_module("pytest_llmperf.limits").EXPRESSIONS[name]
    if importlib.util.find_spec(f"pytest_llmperf.{name}") is None:  # else `from … import` asks here for a submodule
        from pytest_llmperf.errors import nearest

        if (near := nearest(name, __all__)) is not None:
            # `from … import` turns an AttributeError into its own text, and the hint would be lost.
            raise ImportError(f"cannot import name {name!r} from 'pytest_llmperf'; did you mean {near!r}?", name=name)
    raise AttributeError(f"module 'pytest_llmperf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
