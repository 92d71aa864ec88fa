"""What does the installed plugin cost a run that does not use it?

Runs pytest with and without the plugin in turn, and prints what it adds:

    no marked test        milliseconds (median over pairs), and which heavy modules were imported (none may be)
    1,000 marked tests    seconds to collect, marked less unmarked

    python benchmarks/startup.py [--pairs 15]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = ("torch", "transformers", "numpy", "scipy", "pydantic", "rich", "pytest_benchmark")
MOST_ADDED_MS = 15.0
MOST_COLLECTING_S = 0.2

PLAIN = "def test_nothing():\n    pass\n"
UNMARKED = "def test_{n}():\n    pass\n"
MARKED = '@llm_perf(ttft_ms < 50, tpot_ms.p90 < 8, "itl_ms < 9", model="gpt2")\ndef test_{n}(llm):\n    llm.measure()\n'
IMPORT = "from pytest_llmperf import llm_perf, tpot_ms, ttft_ms\n"
TELL_MODULES = "import sys\n\n\ndef pytest_unconfigure():\n    print('LOADED', *sorted(sys.modules))\n"


def run(folder: Path, *arguments: str) -> tuple[float, str]:
    """Seconds and output of one pytest run with no other plugin than ours."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - started, done.stdout


def added(folder: Path, without: list[str], having: list[str], pairs: int) -> float:
    """Median over pairs of the seconds that one command takes more than the other."""
    run(folder, *without), run(folder, *having)
    differences = []
    for pair in range(pairs):
        arms = [without, having] if pair % 2 else [having, without]
        seconds = {id(arm): run(folder, *arm)[0] for arm in arms}
        differences.append(seconds[id(having)] - seconds[id(without)])
    return statistics.median(differences)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_plain.py").write_text(PLAIN)
        (folder / "tell.py").write_text(TELL_MODULES)
        numbers = range(1000)
        (folder / "test_unmarked.py").write_text("".join(UNMARKED.format(n=n) for n in numbers))
        (folder / "test_marked.py").write_text(IMPORT + "".join(MARKED.format(n=n) for n in numbers))

        plugin = ["-p", "pytest_llmperf.plugin"]
        _, output = run(folder, "-s", "-p", "tell", *plugin, "test_plain.py")
        loaded = next(line for line in output.splitlines() if line.startswith("LOADED")).split()
        heavy = [module for module in HEAVY if module in loaded]
        start_ms = added(folder, ["test_plain.py"], [*plugin, "test_plain.py"], pairs) * 1e3
        collect = ["--collect-only", *plugin]
        collect_s = added(folder, [*collect, "test_unmarked.py"], [*collect, "test_marked.py"], max(3, pairs // 3))

    met = [
        tell(
            "no marked test: added to the run", f"{start_ms:.1f} ms", f"< {MOST_ADDED_MS} ms", start_ms < MOST_ADDED_MS
        ),
        tell("no marked test: heavy modules", ", ".join(heavy) or "none", "none", not heavy),
        tell(
            "1,000 marked: collecting", f"{collect_s:.3f} s", f"< {MOST_COLLECTING_S} s", collect_s < MOST_COLLECTING_S
        ),
    ]
    return int(not all(met))


def tell(what: str, seen: str, bar: str, met: bool) -> bool:
    print(f"{what:36} {seen:>12}   bar {bar:9} {'met' if met else 'MISSED'}")
    return met


if __name__ == "__main__":
    raise SystemExit(main())
