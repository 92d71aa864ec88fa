#!/usr/bin/env bash
# Everything that needs a GPU, in one command: the GPU tests without skips, then what measuring costs there.
#
#     bash benchmarks/gpu.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
export HF_HUB_OFFLINE=1 LLMPERF_REQUIRE_GPU=1

"$python" -m pytest -m gpu
"$python" benchmarks/overhead.py --device cuda --pairs 200

"$python" benchmarks/counting.py
"$python" benchmarks/roofline.py --device cuda --dtype bfloat16 random:gpt2 \
  'random:llama?num_hidden_layers=16&hidden_size=2048&intermediate_size=5504'

# The noise of this GPU, its pairs kept for benchmarks/verdict.py. The target is about as large as what is gated there.
traces=$(mktemp -d)
"$python" -m pytest_llmperf.cli calibrate 'random:llama?num_hidden_layers=16&hidden_size=2048&intermediate_size=5504' \
  --device cuda --dtype bfloat16 --pairs 8 --rounds 40 --baselines "$traces" --traces "$traces/pairs.json.gz"
cp "$traces/pairs.json.gz" "tests/data/pairs-$(basename "$(dirname "$traces"/*/noise.json)").json.gz"
"$python" benchmarks/verdict.py
