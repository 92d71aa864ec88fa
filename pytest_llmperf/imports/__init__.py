"""Results of other load generators, read into runs of this package's words. Those tools generate, this one judges.

Every definition is mapped by hand, in the module of its tool; what cannot be mapped is refused, or unknown with
its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_llmperf.errors import ForeignError
from pytest_llmperf.imports.aiperf import AiPerf
from pytest_llmperf.imports.fields import objects
from pytest_llmperf.imports.guidellm import GuideLlm
from pytest_llmperf.imports.runs import Format, Run
from pytest_llmperf.imports.vllm import Vllm

__all__ = ["FORMATS", "Format", "Run", "read"]

FORMATS: Mapping[str, Format] = {known.name: known for known in (Vllm(), AiPerf(), GuideLlm())}


def read(path: Path, name: str | None = None) -> list[Run]:
    """The runs of a file.

    Args:
        name: of its format; None recognises it.

    Raises:
        ForeignError: the file cannot be read, is of no known tool, or does not say what a measurement is made of.
    """
    found = objects(path)
    known = [form for form in FORMATS.values() if name in (None, form.name) and form.holds(found)]
    if not known:
        expected = [form.expected for form in FORMATS.values() if name in (None, form.name)]
        raise ForeignError(f"{path} is not what it has to be: expected {', or '.join(expected)}")
    return known[0].runs(found, path)
