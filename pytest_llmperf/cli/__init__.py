"""The command `llmperf`: what the plugin does, without writing a test."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytest_llmperf.errors import LlmperfError, UsageError
from pytest_llmperf.options import OPTIONS, whole
from pytest_llmperf.units import without_halves


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
    listing.set_defaults(run=_command("measure", "metrics"))

    measuring = commands.add_parser(
        "measure",
        help="measure a model and print a table",
        description="Measure TARGET: a Hub id, a local folder, random:TYPE?option=value, or a server's url. "
        "Sizes may be lists, and every combination is measured.",
    )
    measuring.add_argument("target", metavar="TARGET")
    measuring.add_argument("--prompt-tokens", type=_sizes, default=[128], metavar="N[,N…]")
    measuring.add_argument("--output-tokens", type=_sizes, default=[32], metavar="N[,N…]")
    measuring.add_argument("--batch-size", type=_sizes, default=[1], metavar="N[,N…]")
    measuring.add_argument("--concurrency", type=_sizes, default=[1], metavar="N[,N…]", help="of a server")
    measuring.add_argument("--prompt", metavar="TEXT", help="text instead of --prompt-tokens; measures tokenization")
    _add_options(measuring, "device", "dtype", "threads", "rounds", "max_time")
    _add_limits(measuring, "ttft_ms < 50")
    _add_json(measuring)
    _add_verbose(measuring)
    measuring.set_defaults(run=_command("measure", "measure"))
    _add_profile(commands)
    _add_sweep(commands)
    _add_stored_commands(commands)
    _add_calibrate(commands)
    _add_import(commands)
    _add_report(commands)
    _add_init(commands)
    return parser


def _add_init(commands: Any) -> None:
    beginning = commands.add_parser(
        "init",
        help="write a first test, and the workflow that gates pull requests with it",
        description="Write a first test and .gitattributes of baselines into FOLDER, where pytest is called, and a "
        "workflow of GitHub Actions into the repository that holds it. What exists already stays as it is.",
    )
    beginning.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="default: this one")
    beginning.add_argument(
        "--runner",
        default="cpu",
        metavar="cpu|gpu|LABEL[,LABEL…]",
        help="what the workflow runs on: cpu, ubuntu-latest (default); gpu, [self-hosted, gpu]; or the labels of yours",
    )
    _add_options(beginning, "device")
    beginning.set_defaults(run=_command("init", "init"))


def _add_report(commands: Any) -> None:
    reporting = commands.add_parser(
        "report",
        help="show reports of pytest --llmperf-json again, and write others of them",
        description="Show the reports FILE, several of them as one, as the parts of a run on several machines are. "
        "Exit status 1 if what they tell of failed.",
    )
    reporting.add_argument("files", nargs="+", type=Path, metavar="FILE")
    reporting.add_argument("--json", type=Path, metavar="FILE", help="write one report of all; - for standard output")
    reporting.add_argument("--markdown", type=Path, metavar="FILE", help="short, what fails first; - likewise")
    reporting.add_argument("--html", type=Path, metavar="FILE", help="a page with charts; - likewise")
    reporting.add_argument("--history", type=Path, metavar="FILE|DIR", help="of --llmperf-history, for the page")
    reporting.add_argument(
        "--annotations", action="store_true", help="print what fails as GitHub Actions shows it beside a test's line"
    )
    reporting.add_argument(
        "--custom-json",
        type=Path,
        metavar="FILE",
        help="memory, counts and rates in the form of github-action-benchmark; - for what is better when smaller",
    )
    reporting.add_argument(
        "--recompute", action="store_true", help="judge anew from what the reports hold, and tell what differs"
    )
    _add_verbose(reporting)
    reporting.set_defaults(run=_command("report", "report"))


def _add_profile(commands: Any) -> None:
    profiling = commands.add_parser(
        "profile",
        help="show where the time of a model goes",
        description="Serve TARGET prompts of several lengths, each cold and warm, and show its times, its operators "
        "and what is to be noticed. TARGET is a Hub id, a local folder, or random:TYPE?option=value.",
    )
    profiling.add_argument("target", metavar="TARGET")
    profiling.add_argument(
        "--prompt-tokens", type=_sizes, default=[32, 128, 512], metavar="N[,N…]", help="default: 32,128,512"
    )
    profiling.add_argument("--output-tokens", type=_checked(whole), default=32, metavar="N")
    _add_options(profiling, "device", "dtype", "threads")
    profiling.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything shown as JSON; - for standard output"
    )
    profiling.add_argument(
        "--traces",
        type=_checked(lambda text: Path(OPTIONS["traces"].parse(text))),
        metavar="DIR",
        help="write traces for Chrome and TensorBoard",
    )
    profiling.set_defaults(run=_command("profile", "profile"))


def _add_sweep(commands: Any) -> None:
    sweeping = commands.add_parser(
        "sweep",
        help="find the most load at which a server keeps its limits",
        description="Measure the server TARGET, as in 'http://127.0.0.1:8000/v1?model=gpt2', at one load after the "
        "other: at those given, or doubled from 1 on until a limit breaks, and then in between. Exit status 1 if no "
        "load is borne.",
    )
    sweeping.add_argument("target", metavar="TARGET")
    _add_limits(sweeping, "ttft_ms.p95 < 500")
    loads = sweeping.add_mutually_exclusive_group()
    loads.add_argument(
        "--concurrency", type=_sizes, nargs="?", const=[], default=[], metavar="N[,N…]", help="requests in flight"
    )
    loads.add_argument("--rate", type=_rates, nargs="?", const=[], metavar="R[,R…]", help="requests per second instead")
    sweeping.add_argument("--arrivals", metavar="poisson|constant", help="of a rate (default: poisson)")
    sweeping.add_argument("--most", type=_checked(whole), metavar="N", help="the highest load that is tried")
    sweeping.add_argument("--prompt-tokens", type=_checked(whole), default=128, metavar="N")
    sweeping.add_argument("--output-tokens", type=_checked(whole), default=32, metavar="N")
    sweeping.add_argument("--mix", metavar="MIX", help="instead of both, as 'uniform:32-512,16-128'")
    sweeping.add_argument("--shared-prefix-tokens", type=_checked(whole), metavar="N", help="all prompts begin alike")
    sweeping.add_argument("--requests", type=_checked(whole), metavar="N", help="whose figures count in a round")
    _add_options(sweeping, "rounds", "max_time")
    _add_json(sweeping)
    sweeping.set_defaults(run=_command("sweep", "sweep"))


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
    calibrating.add_argument(
        "--pairs", type=_checked(whole), default=10, metavar="N", help="pairs of processes (default: 10)"
    )
    calibrating.add_argument("--prompt-tokens", type=_checked(whole), default=128, metavar="N")
    calibrating.add_argument("--output-tokens", type=_checked(whole), default=32, metavar="N")
    _add_options(calibrating, "device", "dtype", "threads")
    calibrating.add_argument(
        "--rounds",
        type=_checked(whole),
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
    calibrating.set_defaults(run=_command("calibrate", "calibrate"))


def _add_stored_commands(commands: Any) -> None:
    paths = (
        "a folder of baselines, a hardware folder or a file of it, or a report (pytest --llmperf-json, llmperf measure "
        "--json)"
    )
    showing = commands.add_parser("show", help="print what is stored", description=f"Print what PATH holds: {paths}.")
    showing.add_argument("paths", nargs="*", type=Path, default=[Path("baselines")], metavar="PATH")
    showing.add_argument("-v", "--verbose", action="count", default=0, help="every metric, and how it was measured")
    showing.set_defaults(run=_command("baselines", "show"))

    comparing = commands.add_parser(
        "compare",
        help="compare what is stored; exit status 1 if anything is REGRESSED",
        description=f"Compare B with A, its base. Each is {paths}.",
    )
    comparing.add_argument("base", type=Path, metavar="A")
    comparing.add_argument("head", type=Path, metavar="B")
    tolerance = OPTIONS["tolerance"]
    comparing.add_argument(
        "--tolerance",
        type=_checked(tolerance.parse),
        default=tolerance.default,
        metavar=tolerance.metavar,
        help="how much slower B may be (default: 5%%)",
    )
    comparing.add_argument("--hardware", default="", metavar="NAME", help="only what was measured on this")
    comparing.add_argument("-v", "--verbose", action="count", default=0, help="also what is OK")
    comparing.set_defaults(run=_command("baselines", "compare"))

    merging = commands.add_parser(
        "merge",
        help="join baselines that several runners recorded",
        description="Join folders of baselines; if any two contradict each other, say where and write nothing.",
    )
    merging.add_argument("shards", nargs="+", type=Path, metavar="SHARD")
    merging.add_argument("--into", type=Path, required=True, metavar="DIR", help="if it exists, one shard more")
    merging.set_defaults(run=_command("baselines", "merge"))

    accepting = commands.add_parser(
        "accept",
        help="take over baselines that another run recorded, whoever wrote its code",
        description="Check that FOLDER holds baselines and nothing else, store them in place of those of the same "
        "tests, and print old → new. Files are written anew from what was read; noise.json stays as it is.",
    )
    accepting.add_argument("folder", type=Path, metavar="FOLDER")
    accepting.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder of the baselines")
    accepting.set_defaults(run=_command("baselines", "accept"))


def _add_import(commands: Any) -> None:
    importing = commands.add_parser(
        "import",
        help="judge what vllm bench serve, AIPerf or GuideLLM measured",
        description="Judge results of other load generators by limits and by the baseline of a test, and record them "
        "as one. FILE is of vllm bench serve --save-detailed, AIPerf (profile_export.jsonl) or GuideLLM "
        "(benchmarks.json). Further runs of the same load, in the same file or in others, count as further processes.",
    )
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE")
    importing.add_argument(
        "--test", required=True, metavar="NODEID", help="as whose measurement: tests/test_serving.py::test_load"
    )
    importing.add_argument(
        "--format", choices=("vllm", "aiperf", "guidellm"), help="(default: recognised from the content)"
    )
    importing.add_argument(
        "--select", action="append", default=[], metavar="LABEL", help="of several loads this one; repeatable"
    )
    _add_limits(importing, "ttft_ms < 500")
    recording = importing.add_mutually_exclusive_group()
    recording.add_argument("--update", action="store_true", help="record it as the baseline")
    recording.add_argument("--append", action="store_true", help="record it as one more session of the baseline")
    importing.add_argument("--force", action="store_true", help="record also what breaks a limit")
    importing.add_argument(
        "--hardware", default="", metavar="KEY", help="what the server runs on (default: served-HOST, as the file says)"
    )
    importing.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="folder of the baselines (default: baselines)",
    )
    _add_options(importing, "tolerance", "strict")
    _add_json(importing)
    _add_verbose(importing)
    importing.set_defaults(run=_command("imports", "import_"))


def check_folder(option: str, file: Path | None) -> None:
    """That a file can be made, before any time goes into what is to stand in it.

    Raises:
        UsageError: there is no folder for it, or it is one.
    """
    if file is not None and file.is_dir() and str(file) != "-":
        raise UsageError(f"{option} {file}: this is a folder, expected a file")
    if file is not None and not file.parent.is_dir():
        raise UsageError(f"{option} {file}: there is no folder {file.parent}")


def show(tables: Callable[[int, bool], str], record: Callable[[], str], json: Path | None) -> None:
    """What was measured: tables for people on standard output, a record for programs where `--json` has it.

    Args:
        tables: their text, for a width and with or without colour.
        json: `-` puts the record in the tables' place.

    Raises:
        LlmperfError: the record cannot be written; the tables have been shown.
    """
    from pytest_llmperf.reports.terminal import standard_output

    if str(json) == "-":
        print(record(), end="")
        return
    colour, width = standard_output()
    try:
        print(tables(width, colour), flush=True)
    finally:
        if json is not None:
            write_file("--json", json, record())


def write_file(option: str, file: Path, text: str) -> None:
    """What was measured, once it was shown: whatever is wrong with one of both does not cost the other.

    Raises:
        LlmperfError: it cannot be written.
    """
    try:
        file.write_text(without_halves(text), encoding="utf-8")
    except OSError as error:
        raise LlmperfError(f"{option} {file}: {error.strerror or error}") from None


def _command(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A command, whose module is imported only to run it."""

    def run(parsed: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module(f"pytest_llmperf.cli.{module}"), name)(parsed))

    return run


def _sizes(text: str) -> list[int]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers of at least 1, separated by commas")
    return [int(size) for size in sizes]


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r}: expected requests per second, separated by commas")
    return rates


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser of an option's value whose complaints argparse shows."""

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, UsageError) as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return parse_argument


def _add_limits(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("--limit", action="append", default=[], metavar="LIMIT", help=f"as '{example}'; repeatable")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything seen as JSON; - for standard output"
    )


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="count", default=0, help="every metric; -vv: samples too")


def _add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Options that pytest has too."""
    for name in names:
        option = OPTIONS[name]
        flag = f"--{name.replace('_', '-')}"
        told = option.help.replace("%", "%%")  # argparse formats it
        parser.add_argument(
            flag, type=_checked(option.parse), default=option.default, metavar=option.metavar, help=told
        )
