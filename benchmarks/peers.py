"""Other load generators on a server, and what they report of it, by our definitions.

Both are driven with their defaults, a warm-up of as many requests as are in flight, and prompts of a tokenizer whose
tokens are words, as they are to `paced_server.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

PATIENCE = 180.0
PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True)
class Load:
    """What a peer is asked to do.

    Args:
        requests: that count, after the warm-up.
        folder: where it may leave its files.
    """

    url: str
    model: str
    concurrency: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    folder: Path


@dataclass(frozen=True)
class Report:
    """What a peer says.

    Args:
        figures: by our names; what it does not report is not there.
        answers: the ids of the answers that it counts; None where it does not say, and counts all after the warm-up.
    """

    figures: Mapping[str, float]
    answers: frozenset[str] | None = None


def aiperf(executable: str, load: Load) -> Report:
    """Its `inter_token_latency` is the TPOT of a request; its `inter_chunk_latency` are the gaps."""
    command = [
        *(executable, "profile", "--model", load.model, "--url", load.url, "--endpoint-type", "completions"),
        *("--streaming", "--use-legacy-max-tokens", "--use-server-token-count", "--ui", "none"),
        *("--no-gpu-telemetry", "--no-server-metrics"),
        *("--tokenizer", tokenizer(load.folder), "--output-artifact-dir", load.folder),
        *("--concurrency", load.concurrency, "--request-count", load.requests),
        *("--warmup-request-count", load.concurrency),
        *("--synthetic-input-tokens-mean", load.prompt_tokens, "--output-tokens-mean", load.output_tokens),
    ]
    run(command, load.folder)
    said = json.loads((load.folder / "profile_export_aiperf.json").read_text())
    return Report(
        {
            "ttft_ms": said["time_to_first_token"]["p50"],
            "tpot_ms": said["inter_token_latency"]["p50"],
            **{f"itl_ms.{name}": said["inter_chunk_latency"][name] for name in PERCENTILES},
        }
    )


def guidellm(executable: str, load: Load) -> Report:
    """Its `inter_token_latency_ms` is the TPOT of a request, each weighted by its tokens; gaps it does not report."""
    file = load.folder / "benchmarks.json"
    total = load.concurrency + load.requests
    command = [
        *(executable, "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={load.url},model={load.model},request_format=/v1/completions"),
        *("--profile", f"kind=concurrent,streams={load.concurrency},warmup={load.concurrency}"),
        *("--constraint", f"kind=max_requests,count={total}"),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer(load.folder)}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.output_tokens}"),
        *("--output", f"kind=json,path={file}"),
    ]
    run(command, load.folder)
    said = json.loads(file.read_text())["benchmarks"][0]
    times: Mapping[str, Any] = said["metrics"]
    return Report(
        {
            "ttft_ms": times["time_to_first_token_ms"]["successful"]["percentiles"]["p50"],
            "tpot_ms": times["inter_token_latency_ms"]["successful"]["percentiles"]["p50"],
        },
        frozenset(request["response_id"] for request in said["requests"]["successful"]),
    )


PEERS: Mapping[str, Callable[[str, Load], Report]] = {"aiperf": aiperf, "guidellm": guidellm}


def run(command: list[Any], folder: Path) -> None:
    """To its end, or to the end of patience with all the processes that it started."""
    output = folder / "output.txt"
    with output.open("wb") as file:
        started = subprocess.Popen(
            [str(word) for word in command], stdout=file, stderr=file, cwd=folder, preexec_fn=os.setpgrp
        )
        try:
            failed = started.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            failed = started.wait()
    if failed:
        raise RuntimeError(f"{command[0]} ended with {failed}:\n{output.read_text(errors='replace')[-2000:]}")


def tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer to which every word is one token."""
    words = Tokenizer(models.WordLevel({"word": 0, "<eos>": 1}, unk_token="word"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    home = folder / "tokenizer"
    home.mkdir(exist_ok=True)
    words.save(str(home / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<eos>"}
    (home / "tokenizer_config.json").write_text(json.dumps(config))
    return home
