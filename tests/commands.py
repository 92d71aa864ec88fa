"""The command `llmperf`, called as its users do."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.cli import main


def called(capture: pytest.CaptureFixture[str], *arguments: object) -> tuple[Any, str, str]:
    """Exit status, standard output and standard error."""
    status: Any
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    return status, *capture.readouterr()
