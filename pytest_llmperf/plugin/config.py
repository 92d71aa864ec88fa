"""Where pytest's command line and ini file meet `options.choose`."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.options import OPTIONS, choose


def option(config: pytest.Config, name: str) -> Any:
    """The value of an option where no mark speaks.

    Raises:
        UsageError: a value that the option cannot have.
    """
    ini = OPTIONS[name].ini
    return choose(name, command_line=config.getoption(ini, None), ini=config.getini(ini))
