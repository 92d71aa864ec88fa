"""The command `llmperf`: what the plugin does, without writing a test."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytest_llmperf.errors import LlmperfError, UsageError
from pytest_llmperf.options import OPTIONS, Option


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where something could not be measured, 4 for misuse (as pytest's own), 130 on Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a narrow encoding costs a character, not the result
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except UsageError as error:
        print(f"llmperf: {error}", file=sys.stderr)
        return 4
    except BrokenPipeError:  # whoever read the output has seen enough; keep the interpreter from flushing into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (LlmperfError, OSError) as error:
        print(f"llmperf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llmperf: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(4, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="llmperf", description="Speed and memory of language models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("metrics", help="print the catalogue of metrics")
    listing.add_argument("--markdown", action="store_true", help="as the table of docs/metrics.md")
    listing.set_defaults(run=_metrics)

    measuring = commands.add_parser(
        "measure",
        help="measure a model and print a table",
        description="Measure TARGET: a Hub id, a local folder, or random:TYPE?option=value. "
        "Sizes may be lists, and every combination is measured.",
    )
    measuring.add_argument("target", metavar="TARGET")
    measuring.add_argument("--prompt-tokens", type=_sizes, default=[128], metavar="N[,N…]")
    measuring.add_argument("--output-tokens", type=_sizes, default=[32], metavar="N[,N…]")
    measuring.add_argument("--batch-size", type=_sizes, default=[1], metavar="N[,N…]")
    measuring.add_argument("--prompt", metavar="TEXT", help="text instead of --prompt-tokens; measures tokenization")
    for name in ("device", "dtype", "threads", "rounds", "max_time"):
        option = OPTIONS[name]
        flag = f"--{name.replace('_', '-')}"
        measuring.add_argument(
            flag, type=_option_type(option), default=option.default, metavar=option.metavar, help=option.help
        )
    measuring.add_argument(
        "--limit", action="append", default=[], metavar="LIMIT", help="as 'ttft_ms < 50'; repeatable"
    )
    measuring.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything seen as JSON; - for standard output"
    )
    measuring.add_argument("-v", "--verbose", action="count", default=0, help="every metric; -vv: samples too")
    measuring.set_defaults(run=_measure)
    _add_calibrate(commands)
    return parser


def _add_calibrate(commands: Any) -> None:
    calibrating = commands.add_parser(
        "calibrate",
        help="learn this machine's noise, so that smaller changes can be told from it",
        description="Measure pairs of processes of which both run the same code, store how far apart they come beside "
        "the baselines, and print what that lets comparisons see. TARGET is a Hub id, a local folder, or "
        "random:TYPE?option=value. Calibrating again, best on other days, adds to what is known.",
    )
    calibrating.add_argument(
        "target", metavar="TARGET", nargs="?", help="default: a small model with random weights, of 2 ms per token"
    )
    calibrating.add_argument("--pairs", type=_number, default=10, metavar="N", help="pairs of processes (default: 10)")
    calibrating.add_argument("--prompt-tokens", type=_number, default=128, metavar="N")
    calibrating.add_argument("--output-tokens", type=_number, default=32, metavar="N")
    for name in ("device", "dtype", "threads"):
        option = OPTIONS[name]
        calibrating.add_argument(
            f"--{name}", type=_option_type(option), default=option.default, metavar=option.metavar, help=option.help
        )
    calibrating.add_argument(
        "--rounds",
        type=_number,
        metavar="N",
        help="of each side of a pair (default: 8 to 40, as precision needs)",
    )
    calibrating.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="folder of the baselines (default: baselines)",
    )
    calibrating.add_argument(
        "--traces", type=Path, metavar="FILE", help="write every round as JSON; compressed if FILE ends in .gz"
    )
    calibrating.set_defaults(run=_calibrate)


def _number(text: str) -> int:
    numbers = _sizes(text)
    if len(numbers) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one whole number")
    return numbers[0]


def _calibrate(parsed: argparse.Namespace) -> int:
    from pytest_llmperf.cli_calibrate import calibrate

    return calibrate(parsed)


def _sizes(text: str) -> list[int]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers of at least 1, separated by commas")
    return [int(size) for size in sizes]


def _option_type(option: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except (ValueError, UsageError) as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return parse


def _metrics(parsed: argparse.Namespace) -> int:
    from pytest_llmperf.reports.catalogue import catalogue_markdown, catalogue_text

    colour, width = _terminal()
    print(catalogue_markdown() if parsed.markdown else catalogue_text(width, colour))
    return 0


def _measure(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from pytest_llmperf.reports.table import shape
    from pytest_llmperf.reports.terminal import summary
    from pytest_llmperf.session import Defaults, Llm, Session
    from pytest_llmperf.settings import check
    from pytest_llmperf.workloads import grid

    if parsed.json is not None and not parsed.json.parent.is_dir():
        raise UsageError(f"--json {parsed.json}: there is no folder {parsed.json.parent}")
    sizes = {"prompt_tokens": parsed.prompt_tokens, "output_tokens": parsed.output_tokens}
    workloads = grid({**sizes, "batch_size": parsed.batch_size}, parsed.prompt)
    defaults = Defaults(parsed.device, parsed.dtype, parsed.threads, parsed.rounds, parsed.max_time)
    console = Console(stderr=True)
    with console.status("starting") as status:
        session = Session(defaults, lambda stage: status.update(stage or "…"))
        level = check(parsed.limit, {"model": parsed.target})
        llm = Llm(session, level.keywords["model"].id, [level])
        measurements = []
        for workload in workloads:
            label = shape(workload) if len(workloads) > 1 else None
            try:
                measurements.append(llm.measure(label, workload=workload))
            except LlmperfError as error:
                if len(workloads) == 1:
                    raise
                print(f"llmperf: {shape(workload)}: {error}", file=sys.stderr)
    if not measurements:
        return 1
    if parsed.json is not None:
        text = "[\n" + ",\n".join(measurement.to_json() for measurement in measurements) + "\n]\n"
        if str(parsed.json) == "-":
            print(text, end="")
            return _status(llm.results(), len(workloads))
        parsed.json.write_text(text, encoding="utf-8")
    colour, width = _terminal()
    print(summary(llm.results(), width, colour, max(parsed.verbose, int(len(workloads) == 1))))
    return _status(llm.results(), len(workloads))


def _status(results: Sequence[Any], asked: int) -> int:
    return int(len(results) < asked or any(result.fails for result in results))


def _terminal() -> tuple[bool, int]:
    """Whether standard output takes colour, and how wide it is."""
    from rich.console import Console

    console = Console()
    return console.is_terminal and not console.no_color, console.width
