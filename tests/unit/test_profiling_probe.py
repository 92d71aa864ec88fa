"""What a device can reach: a best, of a working set no larger than the model's, kept for the whole machine."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pytest_llmperf.model import Environment, Unknown
from pytest_llmperf.profiling import probe as probing
from pytest_llmperf.profiling.probe import (
    LARGEST,
    LARGEST_ON_CPU,
    SMALLEST,
    Kept,
    Probe,
    best,
    cache_folder,
    probe_of,
    products,
    reads,
    size_class,
)
from pytest_llmperf.targets import LoadOptions, resolve
from tests.fakes import TINY, FakeClock, FakeDevice

MIB = 2**20


def taking(clock: FakeClock, *seconds: float):
    """Work that takes so long, one time after the other, and then as long as the last."""
    times = list(seconds)

    def work() -> None:
        clock.advance(times.pop(0) if len(times) > 1 else times[0])

    return work


# A best


def test_the_fastest_repetition_counts_and_the_first_never() -> None:
    clock = FakeClock()
    assert best([(taking(clock, 0.001, 0.02, 0.01, 0.03), 100.0)], FakeDevice(), 0.6, clock) == pytest.approx(1e4)


def test_the_fastest_way_counts() -> None:
    clock = FakeClock()
    works = [(taking(clock, 0.01), 100.0), (taking(clock, 0.02), 400.0), (taking(clock, 0.01), 50.0)]
    assert best(works, FakeDevice(), 0.6, clock) == pytest.approx(2e4)


def test_short_work_is_repeated_between_two_stamps_for_as_long_as_a_clock_can_tell() -> None:
    clock, device = FakeClock(), FakeDevice()
    best([(taking(clock, 1e-5), 1.0)], device, 4 * 0.001, clock)
    stamps = device.calls.count("stamp") // 2
    assert stamps == 1 + 4, "a quarter of the time: one call alone, and four times 20"


def test_work_that_would_not_end_in_time_is_not_begun() -> None:
    clock, begun = FakeClock(), []

    def eight_times_as_much(index: int):
        def work() -> None:
            begun.append(index)
            clock.advance(0.01 * 8**index)

        return work, 8.0**index

    best((eight_times_as_much(index) for index in range(4)), FakeDevice(), 0.6, clock)
    assert sorted(set(begun)) == [0, 1]
    assert clock.now < 1000.6


def test_a_clock_that_stands_still_ends_the_probe_and_tells_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    assert best([(lambda: None, 5.0)], FakeDevice(), 0.6, clock) == 0.0
    still = probing.Probe(FakeDevice(), "cpu", "float32", "here", clock, probing.Kept(tmp_path))
    reached = still.bandwidth(MIB)
    assert isinstance(reached, Unknown)
    assert reached.by_chance
    assert still.kept.read() == {}


def test_one_work_is_done_twice_however_long_it_takes() -> None:
    clock = FakeClock()
    assert best([(taking(clock, 50.0), 100.0)], FakeDevice(), 0.6, clock) == pytest.approx(2.0)


def test_the_device_is_waited_for_around_the_work_and_its_own_stamps_are_read() -> None:
    clock, device = FakeClock(), FakeDevice(has_own_clock=True)
    best([(taking(clock, 1.0), 1.0)], device, 0.6, clock)
    assert device.calls == ["synchronize", "stamp", "stamp", "synchronize", "seconds"]


# What is done


@pytest.mark.parametrize(
    ("asked", "probed"),
    [
        (0, SMALLEST),
        (64 * 1024, 64 * 1024),
        (17 * MIB, 16 * MIB),
        (25 * MIB, 24 * MIB),
        (33 * MIB, 32 * MIB),
        (10**12, LARGEST_ON_CPU),
    ],
)
def test_a_working_set_is_probed_at_a_size_that_is_no_larger(asked: int, probed: int) -> None:
    assert size_class(asked, "cpu") == probed


def test_a_gpu_is_probed_with_more() -> None:
    assert size_class(10**12, "cuda:0") == LARGEST


def test_a_probe_takes_no_more_than_a_part_of_what_is_free() -> None:
    assert size_class(10**9, "cpu", free=100 * MIB) == 24 * MIB


def test_every_way_to_read_reads_what_it_says() -> None:
    """The matrix, filled once, is as large as asked for; a copy reads half of it and writes the other."""
    ways = list(reads(4 * MIB, "cpu"))
    assert {amount for _, amount in ways} == {4 * MIB}
    found = [work() for work, _ in ways]
    assert found[0] == MIB
    assert float(found[1][0, 0]) == 1024
    assert float(found[2][0, 0]) == 1024
    assert found[3].numel() == MIB / 2


def test_products_grow_and_say_their_flops() -> None:
    made = products("bfloat16", "cpu", 2**40)
    for width in (256, 512):
        work, flops = next(made)
        product = work()
        assert (product.shape, product.dtype) == ((width, width), torch.bfloat16)
        assert float(product[0, 0]) == width
        assert flops == 2 * width**3


def test_products_that_do_not_fit_are_left_out() -> None:
    assert len(list(products("float32", "cpu", 4 * 24 * 512**2))) == 2


# What is kept


def probe(folder: Path, **fields) -> Probe:
    clock = FakeClock()
    return replace(Probe(FakeDevice(), "cpu", "float32", "this machine", clock, Kept(folder)), **fields)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Rates that probes reach, one after the other."""
    rates: list[float] = []
    monkeypatch.setattr(probing, "best", lambda works, *others: rates.pop(0))
    return rates


def test_a_figure_is_probed_once_and_then_kept(tmp_path: Path, done: list[float]) -> None:
    done += [1e9, 2e9]
    assert probe(tmp_path).bandwidth(5 * MIB) == probe(tmp_path).bandwidth(5 * MIB) == 1e9
    assert done == [2e9]


@pytest.mark.parametrize(
    "other", [{"where": "another machine"}, {"dtype": "bfloat16"}], ids=["another machine", "another dtype"]
)
def test_a_rate_is_of_one_machine_and_one_dtype(tmp_path: Path, done: list[float], other: dict[str, str]) -> None:
    done += [1e9, 2e9]
    assert probe(tmp_path).flop_rate() == 1e9
    assert probe(tmp_path, **other).flop_rate() == 2e9


def test_bandwidth_is_that_of_a_larger_working_set_where_that_was_faster(tmp_path: Path, done: list[float]) -> None:
    done += [3e9, 1e9, 9e9]
    assert probe(tmp_path).bandwidth(64 * MIB) == 3e9
    assert probe(tmp_path).bandwidth(16 * MIB) == 3e9
    assert probe(tmp_path).bandwidth(1 * MIB) == 9e9
    assert probe(tmp_path).bandwidth(64 * MIB) == 3e9


def test_a_figure_probed_anew_only_ever_rises(tmp_path: Path, done: list[float]) -> None:
    done += [2e9, 1e9, 5e9]
    assert probe(tmp_path).flop_rate() == 2e9
    assert probe(tmp_path).flop_rate(anew=True) == 2e9
    assert probe(tmp_path).flop_rate(anew=True) == probe(tmp_path).flop_rate() == 5e9


@pytest.mark.parametrize("content", ["", "{", "[]", '{"this machine: products": 7}', "null", "\x00", "[" * 100_000])
def test_a_damaged_file_is_probed_again_and_written_anew(tmp_path: Path, done: list[float], content: str) -> None:
    (tmp_path / "ceilings.json").write_text(content)
    done.append(1e9)
    assert probe(tmp_path).bandwidth(5 * MIB) == 1e9
    assert json.loads((tmp_path / "ceilings.json").read_text()) == {"this machine: read": {str(4 * MIB): 1e9}}


@pytest.mark.parametrize("figure", ["-1", "0", "NaN", "Infinity", "1e300", "1" + "0" * 400, '"fast"', "null"])
def test_a_figure_that_cannot_be_is_not_believed(tmp_path: Path, done: list[float], figure: str) -> None:
    (tmp_path / "ceilings.json").write_text(f'{{"this machine: read": {{"{4 * MIB}": {figure}}}}}')
    done.append(1e9)
    assert probe(tmp_path).bandwidth(5 * MIB) == 1e9


def test_a_folder_that_cannot_be_written_keeps_nothing_and_harms_nothing(tmp_path: Path, done: list[float]) -> None:
    (tmp_path / "file").write_text("")
    done += [1e9, 2e9]
    assert probe(tmp_path / "file" / "folder").bandwidth(5 * MIB) == 1e9
    assert probe(tmp_path / "file" / "folder").bandwidth(5 * MIB) == 2e9


def test_many_writers_at_once_lose_no_figure_and_leave_no_other_file(tmp_path: Path, done: list[float]) -> None:
    done += [1e9] * 8
    threads = [threading.Thread(target=probe(tmp_path, where=f"machine {number}").flop_rate) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = json.loads((tmp_path / "ceilings.json").read_text())
    assert sorted(kept) == [f"machine {number}: products" for number in range(8)]
    assert {path.name for path in tmp_path.iterdir()} <= {"ceilings.json", "ceilings.lock"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError('"addmm" not implemented\nfor it'), '"addmm" not implemented'),
        (MemoryError(), "MemoryError"),
    ],
    ids=["no such product", "no room"],
)
def test_a_device_that_cannot_do_it_is_unknown_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*args: object) -> float:
        raise error

    monkeypatch.setattr(probing, "best", fail)
    one = probe(tmp_path)
    assert one.flop_rate() == Unknown(f"the device could not be probed: {said}", by_chance=True)
    assert one.device.calls == ["release"]


@pytest.mark.parametrize("dtype", ["int8", "unknown"])
def test_products_of_what_is_no_floating_point_type_are_not_probed(tmp_path: Path, dtype: str) -> None:
    assert probe(tmp_path, dtype=dtype).flop_rate() == Unknown(f"products of {dtype} are not probed")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"LLMPERF_CACHE": "/own", "XDG_CACHE_HOME": "/users"}, Path("/own")),
        ({"XDG_CACHE_HOME": "/users"}, Path("/users/pytest-llmperf")),
        ({"LLMPERF_CACHE": ""}, Path.home() / ".cache" / "pytest-llmperf"),
    ],
    ids=["our own variable", "the user's cache folder", "neither"],
)
def test_figures_are_kept_where_the_environment_says(environ: dict[str, str], folder: Path) -> None:
    assert cache_folder(environ) == folder


# The real thing


def test_this_machine_is_known_by_its_name_its_threads_and_its_torch() -> None:
    target = resolve(TINY).load(LoadOptions(device="cpu"))
    made = probe_of(target, Environment(device_name="a processor"), FakeClock())
    assert made.where == f"a processor, threads {torch.get_num_threads()}, torch {torch.__version__}"
    assert (made.place, made.dtype) == ("cpu", "float32")


def test_a_real_device_reaches_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPERF_CACHE", str(tmp_path))
    monkeypatch.setattr(probing, "SECONDS", 0.02)
    target = resolve(TINY).load(LoadOptions(device="cpu"))
    made = probe_of(target, Environment(), time.perf_counter)
    assert 1e6 < made.bandwidth(MIB) < 1e13
    assert 1e6 < made.flop_rate() < 1e16
    assert {path.name for path in tmp_path.iterdir()} == {"ceilings.json", "ceilings.lock"}
