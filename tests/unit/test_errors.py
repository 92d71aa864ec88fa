"""Errors of one family, and hints at the nearest known name."""

from __future__ import annotations

import traceback
import weakref

import pytest

from pytest_llmperf.errors import (
    DeviceMissingError,
    LlmperfError,
    MeasurementError,
    TargetError,
    UsageError,
    did_you_mean,
    forget_frames,
    nearest,
)


@pytest.mark.parametrize("kind", [UsageError, TargetError, DeviceMissingError, MeasurementError])
def test_every_error_on_purpose_is_caught_as_one_family(kind: type[Exception]) -> None:
    with pytest.raises(LlmperfError, match="the message"):
        raise kind("the message")


def test_a_missing_device_is_a_target_that_cannot_be_loaded() -> None:
    assert issubclass(DeviceMissingError, TargetError)


def test_misuse_is_not_mistaken_for_a_fault_of_the_target() -> None:
    assert not issubclass(UsageError, TargetError)
    assert not issubclass(MeasurementError, TargetError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ttf_ms", "ttft_ms"), ("ttft", "ttft_ms"), ("tpot_mss", "tpot_ms"), ("zebra", None), ("", None)],
)
def test_the_nearest_name_is_found_only_where_one_is_near(name: str, expected: str | None) -> None:
    assert nearest(name, ["ttft_ms", "tpot_ms"]) == expected


def test_a_hint_quotes_the_nearest_name() -> None:
    assert did_you_mean("ttf_ms", ["ttft_ms", "load_s"]) == "; did you mean 'ttft_ms'?"


def test_no_hint_is_given_where_nothing_is_near() -> None:
    assert did_you_mean("zebra", ["ttft_ms", "load_s"]) == ""
    assert did_you_mean("zebra", []) == ""


def test_known_names_may_come_from_any_iterable() -> None:
    assert nearest("beta1", iter(["alpha", "beta"])) == "beta"


class Tensor:
    """What a frame may hold."""


def test_an_error_lets_go_of_what_its_frames_hold_and_is_told_as_before() -> None:
    held = []

    def deepest() -> None:
        held.append(weakref.ref(tensor := Tensor()))
        raise MemoryError(f"no room for {len([tensor])} more")

    def inner() -> None:
        try:
            deepest()
        except MemoryError as error:
            held.append(weakref.ref(tensor := Tensor()))
            raise TargetError(f"it ran out of memory: {len([tensor])}") from error

    with pytest.raises(TargetError) as caught:
        inner()
    before = traceback.format_exception(caught.value)
    assert [tensor() is not None for tensor in held] == [True, True]
    forget_frames(caught.value)
    assert [tensor() for tensor in held] == [None, None]
    assert traceback.format_exception(caught.value) == before


def test_errors_that_are_each_others_cause_are_forgotten_once() -> None:
    one, other = TargetError("one"), TargetError("other")
    one.__cause__, other.__cause__ = other, one
    forget_frames(one)


def test_errors_that_do_not_compare_are_forgotten_too() -> None:
    class Numbered(Exception):
        value = 3

        def __eq__(self, other: object) -> bool:
            return self.value == other.value  # type: ignore[attr-defined]  # as NVMLError does

    error = TargetError("it ran out of memory")
    error.__context__ = Numbered()
    forget_frames(error)
