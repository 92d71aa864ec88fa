"""What a GPU shows of this project, in one table and within a time: the part of `gpu.sh` after its tests.

Each part is a script of this folder, in a process of its own that loads the models one after the other: nothing is
downloaded, and a model of 8 B is built on the device in some seconds. What the parts are given, of 450 s:

    roofline      60 s   TTFT, TPOT and energy, and how much of the device's ceilings they reach
    device_time   45 s   device time by events against the host's arrivals and a profiler's trace
    overhead      80 s   as reported over bare; as many pairs of generations as that allows, a third of it per model
    structural    70 s   eight changes and none, of a small model of each type
    held_up      195 s   up to three pairs of processes, at about 70 s for all models: 10 s to start both, some 5 s to
                         load and warm up a model in one after the other, 3 to 6 s for each of four shares

With 75 s for the tests that makes 525 s. What a part leaves goes to those after it, and what it takes too much comes
from them: at half as much again it is ended, what it had found by then is shown, and the rest is said to be missing.
Two processes with a model of 8 B take 2 × 16 GiB.

    python benchmarks/gpu.py [--device cuda] [--models gpt2 llama-1b llama-8b] [--seconds 450] [--json FILE]
    python benchmarks/gpu.py --device cpu --models small --dtype float32 --prompt-tokens 64
    python benchmarks/gpu.py --show FILE
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pytest_llmperf import nvml
from pytest_llmperf.baselines.environment import device_name, nvidia_gpus, versions
from pytest_llmperf.model import Unknown
from pytest_llmperf.units import now, percent, short_number

HERE = Path(__file__).parent
BAR = (0.99, 1.01)
TIMED = ("ttft_ms", "tpot_ms")
OUTPUT_TOKENS = 16
MOST = 1.5
"""Of its time that a part may take, if there is as much left."""
CHANGES = {0.0: "unchanged", 0.02: "2 % slower", 0.05: "5 % slower", 0.10: "10 % slower"}
WRONG = {
    0.0: ("not REGRESSED", ("REGRESSED",)),
    0.02: ("not REGRESSED", ("REGRESSED",)),
    0.05: ("not OK", ("OK", "IMPROVED")),
    0.10: ("REGRESSED", ("OK", "IMPROVED", "INCONCLUSIVE")),
}
"""By change, the bar, and verdicts that miss it: 2 % is less than the tolerance lets fail, 5 % is all of it."""

Figures = Mapping[str, Any]
Content = dict[str, Any]
NOTHING: Content = {"figures": {}}


@dataclass(frozen=True)
class Model:
    title: str
    target: str
    kind: str
    """As `structural.py` knows it."""


def _llama(**config: object) -> str:
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256}
    return "random:llama?" + "&".join(f"{name}={value}" for name, value in {**config, **heads}.items())


MODELS = {
    "small": Model("GPT-2 of 2 layers", "random:gpt2?n_layer=2&n_embd=128&n_head=4&vocab_size=1000", "gpt2"),
    "gpt2": Model("GPT-2 small", "random:gpt2", "gpt2"),
    "llama-1b": Model(
        "Llama type, 1 B",
        _llama(num_hidden_layers=16, hidden_size=2048, intermediate_size=8192, tie_word_embeddings="true"),
        "llama",
    ),
    "llama-8b": Model(
        "Llama type, 8 B", _llama(num_hidden_layers=32, hidden_size=4096, intermediate_size=14_336), "llama"
    ),
}


# The parts


@dataclass(frozen=True)
class Part:
    """A script of this folder that keeps its figures by target, or by type of model.

    Args:
        seconds: its share of the time.
        arguments: what it is told, from ours and the seconds that it has.
        by: what its figures are kept by.
    """

    script: str
    seconds: float
    arguments: Callable[[argparse.Namespace, float], Sequence[str]]
    by: Callable[[Model], str] = lambda model: model.target


def _models(options: argparse.Namespace) -> list[Model]:
    return [MODELS[name] for name in options.models]


def _targets(options: argparse.Namespace) -> list[str]:
    return [f"--device={options.device}", "--", *(model.target for model in _models(options))]


def _roofline(options: argparse.Namespace, seconds: float) -> list[str]:
    lengths = f"--prompt-tokens={options.prompt_tokens}", f"--output-tokens={OUTPUT_TOKENS}"
    return [*lengths, "--max-time=3", "--threads=1", f"--dtype={options.dtype}", *_targets(options)]


def _device_time(options: argparse.Namespace, seconds: float) -> list[str]:
    return [f"--prompt-tokens={options.prompt_tokens}", f"--dtype={options.dtype}", *_targets(options)]


def _overhead(options: argparse.Namespace, seconds: float) -> list[str]:
    ends = "--pairs=1000", f"--seconds={0.8 * seconds:.0f}"
    return [*ends, f"--output-tokens={OUTPUT_TOKENS}", f"--dtype={options.dtype}", *_targets(options)]


def _structural(options: argparse.Namespace, seconds: float) -> list[str]:
    kinds = dict.fromkeys(model.kind for model in _models(options))
    return ["--unchanged=1", f"--device={options.device}", "--models", *kinds]


def _held_up(options: argparse.Namespace, seconds: float) -> list[str]:
    lengths = f"--prompt-tokens={options.prompt_tokens}", f"--output-tokens={OUTPUT_TOKENS}"
    traces = [f"--traces={options.traces}"] if options.traces else []
    return [*lengths, f"--seconds={0.95 * seconds:.0f}", f"--dtype={options.dtype}", *traces, *_targets(options)]


PARTS = {
    part.script: part
    for part in (
        Part("roofline", 60, _roofline),
        Part("device_time", 45, _device_time),
        Part("overhead", 80, _overhead),
        Part("structural", 70, _structural, by=lambda model: model.kind),
        Part("held_up", 195, _held_up),
    )
}


def run(part: Part, options: argparse.Namespace, seconds: float, most: float) -> Content:
    """What a part found, and why not all that it was to find.

    Args:
        seconds: what it is told to take.
        most: after which it is ended.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        file, output = Path(name) / "figures.json", Path(name) / "output.txt"
        command = [sys.executable, str(HERE / f"{part.script}.py"), f"--json={file}"]
        with output.open("wb") as told:
            process = subprocess.Popen([*command, *part.arguments(options, seconds)], stdout=told, stderr=told)
            try:
                status: int | None = process.wait(most)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                process.kill()
                process.wait()
        figures = _read(file)
        lines = output.read_text(errors="replace").split("\n")
    lacking = [model.title for model in _models(options) if part.by(model) not in figures]
    why = ""
    if status is None:
        why = f"not within {most:.0f} s"
    elif lacking:
        why = next((line.strip() for line in reversed(lines) if line.strip()), f"ended with {status}")
    return {"seconds": time.monotonic() - began, "why": why, "figures": figures}


def _read(file: Path) -> Content:
    """What is in it; nothing if the script was ended while it wrote."""
    try:
        content: Content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content


def boxes(seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[tuple[Part, float, float]]:
    """Each part with its share of the time that is left, when it is its turn, and the most that it may take."""
    ends = clock() + seconds
    left = list(PARTS.values())
    while left:
        rest = max(1.0, ends - clock())
        own = rest * left[0].seconds / sum(part.seconds for part in left)
        yield left.pop(0), own, min(MOST * own, rest)


# The table


@dataclass(frozen=True)
class Cell:
    """One figure of one model; `met` is None where there is no bar."""

    text: str
    met: bool | None = None


@dataclass(frozen=True)
class Row:
    """One figure of all models.

    Args:
        cell: from what the part kept of a model; None where that takes a GPU.
    """

    title: str
    part: str
    cell: Callable[[Figures], Cell | None]
    bar: str = ""


def _plain(name: str) -> Callable[[Figures], Cell]:
    return lambda figures: Cell("unknown" if figures[name] is None else short_number(figures[name]))


def _disturbed(figures: Figures) -> Cell:
    return Cell(figures["disturbed"] or "no", not figures["disturbed"])


def _ratio(name: str) -> Callable[[Figures], Cell | None]:
    def cell(figures: Figures) -> Cell | None:
        ratio = figures[name]
        return None if ratio is None else Cell(f"{ratio:.4f}", BAR[0] <= ratio <= BAR[1])

    return cell


def _interval(metric: str) -> Callable[[Figures], Cell]:
    def cell(figures: Figures) -> Cell:
        seen = figures[metric]
        low, high = seen["low"], seen["high"]
        return Cell(f"{seen['ratio']:.3f} ({low:.3f}–{high:.3f})", BAR[0] <= low and high <= BAR[1])

    return cell


def _noise(metric: str) -> Callable[[Figures], Cell]:
    def cell(figures: Figures) -> Cell:
        noise = figures[metric]["noise"]
        return Cell(f"{percent(noise['process'])}, worth {noise['df']:.1f}")

    return cell


def _verdict(metric: str, share: float) -> Callable[[Figures], Cell]:
    def cell(figures: Figures) -> Cell:
        seen = next(each for each in figures[metric]["shares"] if each["share"] == share)
        met = seen["verdict"] not in WRONG[share][1]
        return Cell(f"{seen['verdict']}, {percent(seen['change'], signed=True)}", met)

    return cell


def _caught(figures: Figures) -> Cell:
    missed = f", not {', '.join(figures['missed'])}" if figures["missed"] else ""
    return Cell(f"{figures['caught']} of {figures['runs']}{missed}", not figures["missed"])


def _false(figures: Figures) -> Cell:
    return Cell(f"{figures['false']} of {figures['unchanged']}", not figures["false"])


_BAR = f"{BAR[0]}–{BAR[1]}"
ROWS = (
    *(Row(f"`{name}`", "roofline", _plain(name)) for name in (*TIMED, "mbu", "mfu", "energy_j_per_token")),
    Row("disturbed meanwhile", "roofline", _disturbed, "no"),
    Row("decode, events / host", "device_time", _ratio("host"), _BAR),
    Row("decode, events / trace", "device_time", _ratio("decode"), _BAR),
    Row("prefill, events / trace", "device_time", _ratio("prefill"), _BAR),
    *(Row(f"`{name}`, reported / bare", "overhead", _interval(name), _BAR) for name in TIMED),
    Row("structural: caught", "structural", _caught, "all"),
    Row("structural: false alarms", "structural", _false, "none"),
    Row("pairs of processes", "held_up", lambda figures: Cell(str(figures["tpot_ms"]["noise"]["pairs"]))),
    *(Row(f"`{name}`, σ_p of A/A", "held_up", _noise(name)) for name in TIMED),
    *(
        Row(f"`{name}`, {said}", "held_up", _verdict(name, share), WRONG[share][0])
        for name in TIMED
        for share, said in CHANGES.items()
    ),
)


def cell_of(row: Row, model: Model, content: Content) -> Cell:
    """What a part could not find, or had no time for, is missed, too."""
    figures = content["parts"].get(row.part, NOTHING)["figures"].get(PARTS[row.part].by(model))
    if figures is None:
        return Cell("missing", False)
    return row.cell(figures) or Cell("needs a GPU")


def table(content: Content) -> tuple[Table, bool]:
    """The table as Markdown, what misses its bar in bold; and whether nothing does."""
    models = [MODELS[name] for name in content["models"]]
    shown = Table("", "bar", *(model.title for model in models), box=box.MARKDOWN)
    met = True
    for row in ROWS:
        cells = [cell_of(row, model, content) for model in models]
        met = met and all(cell.met is not False for cell in cells)
        shown.add_row(row.title, row.bar, *(f"**{cell.text}**" if cell.met is False else cell.text for cell in cells))
    return shown, met


def ended(content: Content) -> str:
    """How long each part took, and which did not end as it should."""
    return "; ".join(
        f"{name} {part['seconds']:.0f} s" + (f" (**{part['why']}**)" if part["why"] else "")
        for name, part in content["parts"].items()
    )


def machine(device: str) -> str:
    """Date, device, driver and versions, without starting CUDA."""
    software = [f"{name} {version}" for name, version in (("Python", platform.python_version()), *versions().items())]
    said = [now()[:10], device_name("cpu")]
    if device.startswith("cuda"):
        with nvml.opened() as library:
            driver = "unknown" if isinstance(library, Unknown) else library.nvmlSystemGetDriverVersion()
        said[1:1] = [", ".join(nvidia_gpus()) or device, f"driver {driver}"]
    return ", ".join([*said, *software])


def show(content: Content, console: Console) -> bool:
    """Whether nothing misses its bar."""
    shown, met = table(content)
    console.print(shown)
    for line in (ended(content), f"{content['machine']}; `{content['command']}`"):
        console.print(f"{line}\n", markup=False, highlight=False, soft_wrap=True)
    return met


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--models", nargs="+", default=["gpt2", "llama-1b", "llama-8b"], choices=list(MODELS))
    parser.add_argument("--prompt-tokens", type=int, default=896, help="where a GPU, and not the host, sets the TTFT")
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="for the rounds of the A/A pairs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to keep all that is found in, part by part")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only show what was kept there")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.show:
        return int(not show(json.loads(options.show.read_text()), console))
    command = " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    content: Content = {"machine": machine(options.device), "command": command, "models": options.models, "parts": {}}
    for part, seconds, most in boxes(options.seconds):
        say(f"{part.script}: {seconds:.0f} s")
        content["parts"][part.script] = run(part, options, seconds, most)
        if options.json:
            options.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(not show(content, console))


if __name__ == "__main__":
    raise SystemExit(main())
