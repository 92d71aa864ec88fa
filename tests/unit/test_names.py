"""Names of devices and dtypes, checked without torch."""

from __future__ import annotations

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.names import device_name, dtype_name


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:11", "mps"])
def test_a_device_keeps_its_name(name: str) -> None:
    assert device_name(name) == name


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("gpu", "known: auto, cpu"),
        ("cdua", "did you mean 'cuda'?"),
        ("cuda:", "did you mean 'cuda:1'?"),
        ("cuda:one", "known: auto"),
        ("cpu:0", "did you mean 'cpu'?"),
        ("", "known: auto"),
        (0, "known: auto"),
        (None, "known: auto"),
    ],
)
def test_what_is_no_device_is_refused_with_the_nearest(wrong: object, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        device_name(wrong)
    assert f"device={wrong!r} is no device" in str(refused.value)
    assert hint in str(refused.value)


@pytest.mark.parametrize(("short", "long"), [("bf16", "bfloat16"), ("torch.float16", "float16"), ("fp32", "float32")])
def test_a_dtype_has_one_name(short: str, long: str) -> None:
    assert dtype_name(short) == long


def test_what_is_no_dtype_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="dtype='bfloat17' is no dtype; did you mean 'bfloat16'"):
        dtype_name("bfloat17")
