"""What a chart is made of: figures in the form of plotly.js, and in a sentence what they show.

Colours are names, `ok` or `base`, that the page resolves, so that a chart is dark where the page is.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.results import Verdict


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        told: what it shows, for those who do not see it and in print.
        data: traces, as plotly.js has them.
        layout: what differs from the page's.
        height: in pixels.
    """

    title: str
    told: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 220

    @property
    def figure(self) -> str:
        """As JSON."""
        return json.dumps({"data": self.data, "layout": {**self.layout, "height": self.height}})


def short(values: Sequence[float]) -> list[float]:
    """To the digits that a chart can show."""
    return [float(f"{value:.5g}") for value in values]


def label(text: str, most: int = 60) -> str:
    """Text that plotly.js shows as it is: it would take some of HTML for markup. Its end tells more than its middle."""
    half = most // 2
    return html.escape(text if len(text) <= most else f"{text[:half]}…{text[-half:]}", quote=False)


def thinned(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, **more}


def upright(at: float, **line: Any) -> dict[str, Any]:
    """A line over the whole height, at one place of the horizontal axis."""
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def colour(verdict: Verdict | None) -> str:
    """Of what came to that verdict."""
    return verdict.value.lower() if verdict is not None else "none"
