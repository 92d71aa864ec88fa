"""A duet of real models on a GPU: two processes that take turns there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.duets import Project

ENGINE = "LAYERS = {layers}\n"
TESTS = """\
import engine
import pytest
from pytest_llmperf import *

SIZES = dict(n_embd=64, n_head=4, vocab_size=500)
TURN = dict(device="cuda", prompt_tokens=8, output_tokens=10)

@llm_perf(model=random_weights("gpt2", n_layer=2, **SIZES), **TURN)
def test_same(llm):
    llm.measure()

@llm_perf(model=random_weights("gpt2", n_layer=engine.LAYERS, **SIZES), **TURN)
def test_grown(llm):
    llm.measure()
"""


@pytest.mark.gpu
def test_a_larger_head_is_regressed_on_a_gpu_and_the_same_is_not(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "project",
        {"engine.py": ENGINE.format(layers=2), "test_chat.py": TESTS},
        {"engine.py": ENGINE.format(layers=8)},
    )
    run = project.against("-v")
    assert run.verdicts["test_grown"] == "REGRESSED"
    assert run.verdicts["test_same"] in ("INCONCLUSIVE", "OK", "no change seen")
    run.has("  ops_per_token *REGRESSED*", "  kernels_per_token *REGRESSED*", "  tpot_ms * % ± *")
    assert run.status == pytest.ExitCode.TESTS_FAILED
    assert project.left() == []
