"""What can be imported, and what importing it costs."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import pytest_llmperf
from pytest_llmperf.limits import EXPRESSIONS
from pytest_llmperf.metrics import CATALOGUE

HEAVY = ("torch", "transformers", "numpy", "scipy", "pydantic", "rich", "pytest_benchmark", "aiohttp")

EXPORTED = [
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


def _fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_pinned() -> None:
    assert pytest_llmperf.__all__ == EXPORTED


def test_every_public_name_can_be_had_and_stays_the_same() -> None:
    for name in EXPORTED:
        assert getattr(pytest_llmperf, name) is getattr(pytest_llmperf, name)


def test_every_metric_of_the_catalogue_is_public_as_its_expression() -> None:
    for name in CATALOGUE:
        assert name in pytest_llmperf.__all__
        assert getattr(pytest_llmperf, name) is EXPRESSIONS[name]


def test_a_star_import_brings_exactly_the_public_names() -> None:
    brought: dict[str, object] = {}
    exec("from pytest_llmperf import *", brought)
    assert sorted(brought.keys() - {"__builtins__"}) == EXPORTED


def test_dir_lists_the_public_names() -> None:
    assert set(EXPORTED) <= set(dir(pytest_llmperf))


def test_a_name_that_nobody_knows_is_an_ordinary_missing_attribute() -> None:
    assert hasattr(pytest_llmperf, "nonsense_xyz") is False
    assert getattr(pytest_llmperf, "nonsense_xyz", "missing") == "missing"


def test_a_name_that_nobody_knows_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nonsense_xyz' from 'pytest_llmperf'"):
        from pytest_llmperf import nonsense_xyz  # noqa: F401  # the point of the test


@pytest.mark.parametrize("name", ["__wrapped__", "__nonsense__"])
def test_names_that_python_itself_asks_for_are_ordinary_missing_attributes(name: str) -> None:
    assert hasattr(pytest_llmperf, name) is False


@pytest.mark.parametrize("reach", ["", "for name in pytest_llmperf.__all__: getattr(pytest_llmperf, name)"])
def test_neither_the_import_nor_any_public_name_loads_anything_heavy(reach: str) -> None:
    code = f"import json, sys, pytest_llmperf\n{reach}\nprint(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(_fresh(code)))
    assert "pytest_llmperf" in loaded
    assert not loaded & set(HEAVY)


def test_the_import_alone_loads_no_other_part_of_the_package() -> None:
    code = "import sys, pytest_llmperf\nprint(*[m for m in sys.modules if m.startswith('pytest_llmperf')])"
    assert _fresh(code).split() == ["pytest_llmperf"]


def test_the_plugin_as_pytest_loads_it_loads_nothing_heavy() -> None:
    code = "import json, sys, pytest_llmperf.plugin\nprint(json.dumps(sorted(sys.modules)))"
    assert not set(json.loads(_fresh(code))) & set(HEAVY)


def test_every_part_of_the_package_can_be_imported_from_it() -> None:
    """`from pytest_llmperf import workloads` asks the package for the name before it looks for the module."""
    parts = [module.name for module in pkgutil.iter_modules(pytest_llmperf.__path__) if module.name != "cli"]
    assert {"metrics", "model", "workloads", "measure"} <= set(parts)
    attempts = "\n".join(
        f"for loaded in [m for m in sys.modules if m.startswith('pytest_llmperf')]: del sys.modules[loaded]\n"
        f"try:\n    from pytest_llmperf import {part}\nexcept ImportError as error:\n    print('{part}:', error)"
        for part in parts
    )
    assert _fresh(f"import sys\n{attempts}") == ""


def test_the_version_is_public() -> None:
    assert pytest_llmperf.__version__ == "0.1.0"
