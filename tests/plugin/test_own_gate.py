"""The examples gate this project itself: what they count is stored for every machine, and `.ci/run` compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.conftest import Again

ROOT = Path(__file__).parents[2]
EXACT = ROOT / "baselines" / "exact-cpu"


def test_every_example_with_a_model_is_stored() -> None:
    models = {path.stem for path in (ROOT / "examples").glob("test_*.py")} - {"test_stream"}
    assert {path.stem for path in EXACT.glob("*.json")} == models


def test_the_gate_of_the_examples_fails_where_the_cache_is_off(suite: pytest.Pytester, again: Again) -> None:
    again()
    example = (
        (ROOT / "examples" / "test_scaling.py").read_text().replace("output_tokens=8", "load={'use_cache': False}")
    )
    shortened = example[: example.index("    s = llm.scaling")]
    measured = "    llm.measure('prompt_tokens=64', prompt_tokens=64, output_tokens=8)\n"
    suite.makepyfile(test_scaling=shortened + measured)
    result = suite.runpytest(f"--llmperf-baselines={EXACT.parent}", "--llmperf-strict=versions")
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.re_match_lines([r"E? *REGRESSED kv_cache_mib 0.\d+ MiB in the baseline, no longer measured.*"])
