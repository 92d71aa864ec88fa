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
