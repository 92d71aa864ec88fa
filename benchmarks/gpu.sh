#!/usr/bin/env bash
# Everything that needs a GPU, in one command of less than nine minutes: the GPU tests without skips, then the table of
# gpu.py. The rounds of its A/A pairs go to tests/data/, for benchmarks/verdict.py.
#
#     bash benchmarks/gpu.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
export HF_HUB_OFFLINE=1 LLMPERF_REQUIRE_GPU=1

status=0
timeout --foreground --signal=INT --kill-after=10 150 "$python" -m pytest -m gpu || status=$?
[ "$status" = 0 ] || echo "the GPU tests failed, or did not end within 150 s"
"$python" benchmarks/gpu.py --device cuda --seconds "$((525 - SECONDS))" --traces tests/data || status=$?
exit "$status"
