"""Names of devices and dtypes, checked without importing torch."""

from __future__ import annotations

from pytest_llmperf.errors import UsageError, did_you_mean

_DEVICES = ("auto", "cpu", "cuda", "mps")
_DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
_SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16", "float": "float32"}


def device_name(device: object) -> str:
    """The device as given, if it has the form of one: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UsageError: naming the nearest device.
    """
    name = str(device)
    kind, _, index = name.partition(":")
    if kind in _DEVICES and (not index or (kind == "cuda" and index.isdecimal())) and not name.endswith(":"):
        return name
    known = ("auto", "cpu", "cuda", "cuda:1", "mps")
    raise UsageError(f"device={device!r} is no device{did_you_mean(name, known)} (known: {', '.join(known)})")


def dtype_name(dtype: object) -> str:
    """`bfloat16` of `"bf16"`, `"torch.bfloat16"` or `torch.bfloat16`.

    Raises:
        UsageError: naming the nearest dtype.
    """
    name = str(dtype).removeprefix("torch.")
    name = _SHORT_DTYPES.get(name, name)
    if name not in _DTYPES:
        raise UsageError(f"dtype={dtype!r} is no dtype{did_you_mean(name, _DTYPES)} (known: {', '.join(_DTYPES)})")
    return name
