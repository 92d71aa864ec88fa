"""The command `llmperf`: what it prints where, and its exit status."""

from __future__ import annotations

import functools
import gc
import json
import re

import pytest

from pytest_llmperf.cli import main
from pytest_llmperf.metrics import CATALOGUE
from tests.commands import called
from tests.fakes import TINY

SMALL = "random:gpt2?n_embd=16&n_head=2&n_layer=1&n_positions=64&vocab_size=50"
QUICK = ["--device", "cpu", "--rounds", "1", "--max-time", "0.02", "--prompt-tokens", "6", "--output-tokens", "3"]


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """Garbage is collected in every memory pass: spare the collector all that was imported before."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def run(capfd):
    """Exit status, standard output and standard error of a command, file descriptors included."""
    return functools.partial(called, capfd)


def measure(run, *arguments, target=SMALL):
    return run("measure", target, *QUICK, *arguments)


# The catalogue


def test_metrics_prints_every_metric_with_its_unit(run):
    status, out, err = run("metrics")
    assert (status, err) == (0, "")
    for name in CATALOGUE:
        assert re.search(rf"^\s*{name}\b", out, re.MULTILINE), name


def test_metrics_as_markdown_is_one_table(run):
    status, out, err = run("metrics", "--markdown")
    assert (status, err) == (0, "")
    head, rule, *rows = out.strip().splitlines()
    assert head.startswith("| metric | unit |")
    assert set(rule) == {"|", "-"}
    assert [row.split("`")[1] for row in rows] == list(CATALOGUE)
    assert {row.count("|") for row in [head, rule, *rows]} == {9}


# Measuring


def test_a_measurement_is_printed_as_a_table_of_metrics(run):
    status, out, err = measure(run)
    assert (status, err) == (0, "")
    assert SMALL in out.replace("\n  ", "")
    for name in ("ttft_ms", "tpot_ms", "peak_memory_mib", "load_s", "cold_ttft_ms"):
        assert re.search(rf"^\s+{name}\s+[\d.,]+\s", out, re.MULTILINE), name
    assert "tokenize_ms" not in out.replace("detokenize_ms", ""), "what is unknown has no row"
    assert out.endswith("1 measured: 1 without limits\n")


def test_a_grid_of_sizes_is_measured_with_one_row_each(run):
    status, out, err = measure(run, "--prompt-tokens", "4,6", "--output-tokens", "2, 3", "--batch-size", "1,2")
    assert (status, err) == (0, "")
    for prompt in (4, 6):
        for output in (2, 3):
            assert re.search(rf"^\s+{prompt}→{output}\s", out, re.MULTILINE)
            assert re.search(rf"^\s+2×{prompt}→{output}\s", out, re.MULTILINE)
    assert "8 measured: 8 without limits" in out


def test_verbose_shows_every_metric_of_a_grid(run):
    _, plain, _ = measure(run, "--prompt-tokens", "4,6")
    _, verbose, _ = measure(run, "--prompt-tokens", "4,6", "-v")
    assert "activations_mib" not in plain
    assert verbose.count("activations_mib") == 2


@pytest.mark.parametrize(
    ("limits", "status", "shown"),
    [
        (["ttft_ms < 60_000"], 0, "1 measured: 1 ok"),
        (["ttft_ms < 0.0001"], 1, "1 measured: 1 broken"),
        (["ttft_ms < 60_000", "tpot_ms < 0.0001"], 1, "1 measured: 1 broken"),
        (["itl_ms.p99 < 60_000"], 0, "1 measured: 1 inconclusive"),
    ],
)
def test_a_broken_limit_is_exit_status_1(run, limits, status, shown):
    arguments = [part for limit in limits for part in ("--limit", limit)]
    seen, out, err = measure(run, *arguments)
    assert seen == status
    assert err == ""
    assert shown in out


def test_a_text_prompt_measures_tokenization(run, saved_model):
    status, out, _ = measure(run, "--prompt", "the quick brown fox", target=saved_model)
    assert status == 0
    assert re.search(r"^\s+tokenize_ms\s+[\d.]+", out, re.MULTILINE)
    assert re.search(r"^\s+detokenize_ms\s+[\d.]+", out, re.MULTILINE)


def test_options_of_loading_are_used(run):
    _, out, _ = measure(run, "--dtype", "bf16", "--threads", "2", "--json", "-")
    [record] = json.loads(out)
    assert record["environment"]["dtype"] == "bfloat16"
    assert record["environment"]["threads"] == 2


# JSON


def test_json_to_standard_output_is_nothing_but_json(run):
    status, out, err = measure(run, "--json", "-", "--output-tokens", "2,3")
    assert (status, err) == (0, "")
    records = json.loads(out)
    assert [record["workload"]["output_tokens"] for record in records] == [2, 3]
    for record in records:
        assert set(record["metrics"]) | set(record["unknown"]) == set(CATALOGUE)
    assert "load_s" in records[0]["metrics"]
    assert "load_s" in records[1]["unknown"]


def test_json_to_standard_output_keeps_the_exit_status(run):
    status, out, _ = measure(run, "--json", "-", "--limit", "ttft_ms < 0.0001")
    assert status == 1
    assert json.loads(out)


def test_json_to_a_file_leaves_the_table_on_standard_output(run, tmp_path):
    file = tmp_path / "run.json"
    status, out, _ = measure(run, "--json", file)
    assert status == 0
    assert "ttft_ms" in out
    [record] = json.loads(file.read_text(encoding="utf-8"))
    assert record["target"] == SMALL


def test_a_json_file_that_cannot_be_written_is_an_error_in_one_line(run, tmp_path):
    status, _, err = measure(run, "--json", tmp_path / "missing" / "run.json")
    assert status in (1, 4)
    assert err.splitlines()[-1].startswith("llmperf")
    assert "run.json" in err
    assert "Traceback" not in err


# What cannot be measured


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("./missing", "model='./missing': this path does not exist"),
        ("org/missing", "model='org/missing': not in the Hub's cache"),
        ("random:t5", "'t5' is no causal language model"),
    ],
)
def test_a_target_that_cannot_be_had_is_exit_status_1_and_one_line(run, target, message):
    status, out, err = measure(run, target=target)
    assert status == 1
    assert out == ""
    assert err.startswith("llmperf: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "target", "message"),
    [
        ([], "random:gpt2?n_layr=2", "did you mean 'n_layer'"),
        ([], "random:gpt3", "no model type 'gpt3'"),
        ([], "", "is empty"),
        (["--limit", "ttft < 5"], SMALL, "did you mean 'ttft_ms'"),
        (["--limit", "ttft_ms = 5"], SMALL, "ttft_ms = 5"),
        (["--limit", "10 < ttft_ms < 50"], SMALL, "ttft_ms"),
        (["--prompt", "hello"], SMALL, "has no tokenizer"),
        (["--prompt-tokens", "500"], SMALL, "positions for 64 tokens"),
        (["--device", "gpu"], SMALL, "device='gpu' is no device"),
        (["--dtype", "bf17"], SMALL, "dtype='bf17' is no dtype"),
    ],
)
def test_misuse_is_exit_status_4(run, arguments, target, message):
    status, out, err = measure(run, *arguments, target=target)
    assert status == 4
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("flag", ["--prompt-tokens", "--output-tokens", "--batch-size"])
@pytest.mark.parametrize("sizes", ["0", "-1", "many", "4,", "4,,8", "1.5", "", "4;8"])
def test_sizes_that_are_none_are_exit_status_4_and_named(run, flag, sizes):
    status, out, err = measure(run, f"{flag}={sizes}")
    assert status == 4
    assert out == ""
    assert f"{sizes!r}: expected whole numbers of at least 1" in err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--rounds", "0", "expected a whole number of at least 1"),
        ("--rounds", "few", "expected a whole number of at least 1"),
        ("--max-time", "0", "expected seconds, a number above 0"),
        ("--max-time", "inf", "expected seconds"),
        ("--threads", "0", "expected a whole number"),
    ],
)
def test_options_out_of_range_are_exit_status_4(run, flag, value, message):
    status, _, err = measure(run, flag, value)
    assert status == 4
    assert message in err
    assert value in err


@pytest.mark.parametrize("arguments", [[], ["mesure"], ["measure"], ["metrics", "--json"]])
def test_a_command_line_that_is_none_is_exit_status_4_with_usage(run, arguments):
    status, out, err = run(*arguments)
    assert status == 4
    assert out == ""
    assert err.startswith("usage: llmperf")


COMMANDS = [
    *("metrics", "measure", "profile", "sweep", "show", "compare", "merge", "accept", "calibrate", "import"),
    *("report", "init"),
]


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_is_exit_status_0(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert out.startswith("usage: llmperf")


def test_an_interrupt_is_exit_status_130(run, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_llmperf.session.measure", interrupted)
    status, out, err = measure(run)
    assert (status, out, err) == (130, "", "llmperf: interrupted\n")


def test_the_command_line_imports_nothing_heavy_before_it_measures():
    import subprocess
    import sys

    code = (
        "import sys, pytest_llmperf.cli; "
        "print([m for m in ('torch', 'transformers', 'numpy', 'rich', 'psutil') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_workload_of_a_grid_that_cannot_be_served_costs_only_itself(run):
    status, out, err = run("measure", TINY, *QUICK, "--prompt-tokens", "8,300", "--output-tokens", "2")
    assert status == 1
    assert "8→2" in out
    assert "1 measured" in out
    assert "300→2" in err
    assert "has positions for 256 tokens" in err


@pytest.mark.parametrize("command", ["measure", "profile", "calibrate"])
def test_help_speaks_of_no_marks(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "auto, cpu, cuda, cuda:1 or mps" in out
    assert "mark" not in out
