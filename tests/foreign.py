"""Files of other load generators: real ones cut short, one written as vLLM's source says, and what may be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
AIPERF = DATA / "aiperf" / "profile_export.jsonl"
GUIDELLM = DATA / "guidellm" / "benchmarks.json"


def vllm(path: Path, requests: int = 12, *, scale: float = 1.0, **columns: Any) -> Path:
    """What `vllm bench serve --save-result --save-detailed` writes: 4 tokens each, 10 ms apart, the first after 50.

    Args:
        scale: of all times between tokens.
        columns: anything else; None leaves it out.
    """
    written = {
        "date": "20261121-214100",
        "endpoint_type": "openai",
        "backend": "openai",
        "label": None,
        "model_id": "gpt2",
        "tokenizer_id": "gpt2",
        "num_prompts": requests,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 4,
        "duration": 0.1 * requests,
        "completed": requests,
        "failed": 0,
        "request_throughput": 10.0,
        "output_throughput": 40.0,
        "input_lens": [32] * requests,
        "output_lens": [4] * requests,
        "ttfts": [0.05 * scale] * requests,
        "itls": [[0.01 * scale] * 3] * requests,
        "start_times": [353399.5 + 0.1 * number for number in range(requests)],
        "queue_times": [0.0] * requests,
        "generated_texts": ["a b c d"] * requests,
        "errors": [""] * requests,
        "mean_tpot_ms": 10.0,
        **columns,
    }
    path.write_text(json.dumps({name: value for name, value in written.items() if value is not None}))
    return path


def guidellm(path: Path, change: Callable[[dict[str, Any]], object] = lambda report: None) -> Path:
    """GuideLLM's file, with something else in it."""
    report = json.loads(GUIDELLM.read_text())
    change(report)
    path.write_text(json.dumps(report))
    return path


def aiperf(
    folder: Path,
    change: Callable[[list[dict[str, Any]]], object] = lambda lines: None,
    summary: Callable[[dict[str, Any]], object] = lambda summary: None,
) -> Path:
    """AIPerf's two files, with something else in them."""
    folder.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in AIPERF.read_text().splitlines()]
    change(lines)
    shutil.copy(AIPERF.with_name("profile_export_aiperf.json"), folder)
    beside = folder / "profile_export_aiperf.json"
    held = json.loads(beside.read_text())
    summary(held)
    beside.write_text(json.dumps(held))
    path = folder / AIPERF.name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
