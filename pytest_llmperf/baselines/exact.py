"""Counted metrics: versions change them and hardware does not, so that they lie in a folder of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmperf.metrics import CATALOGUE, Kind

if TYPE_CHECKING:
    from pytest_llmperf.baselines.schema import Session

GATING_VERSIONS = ("torch", "transformers", "ranks")
"""Counted metrics hold for these versions, and for as many ranks where there are several."""
_FOLDER = "exact-"


def is_exact(metric: str) -> bool:
    """Whether a metric is counted, and does not depend on the hardware."""
    if metric not in CATALOGUE:
        return False
    return CATALOGUE[metric].kind is Kind.COUNTED and not CATALOGUE[metric].by_hardware


def exact_folder(device_type: str) -> str:
    """Where the counted metrics of a device type lie."""
    return f"{_FOLDER}{device_type}"


def is_exact_folder(folder: str) -> bool:
    return folder.startswith(_FOLDER)


def device_type(folder: str) -> str:
    """`cpu` of `cpu-amd-epyc-2c` and of `exact-cpu`."""
    return folder.removeprefix(_FOLDER).partition("-")[0]


def counted_with(session: Session) -> tuple[str, ...]:
    """The versions a session counted with, empty where unknown; without the build (`+cpu`), which changes no count."""
    return tuple(session.versions.get(name, "").partition("+")[0] for name in GATING_VERSIONS)


def said(session: Session) -> tuple[object, ...]:
    """What a session says of the counted metrics and of operators' calls, and for which versions."""
    return session.metrics, session.calls, session.decode_flops, counted_with(session)
