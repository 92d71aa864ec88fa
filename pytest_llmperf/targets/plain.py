"""Plain data in references: hashable, and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote


def value_of(text: str) -> Any:
    """JSON where it reads as such, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def text_of(value: Any) -> str:
    """As `value_of` reads it: plain, unless the text would be read as something else."""
    plain = value if isinstance(value, str) else json.dumps(thawed(value), separators=(",", ":"))
    if isinstance(value, str) and value_of(value) != value:
        plain = json.dumps(value)
    return quote(plain, safe='/:,[]{}" ')


def frozen(value: Any) -> Any:
    """Lists and dictionaries as tuples, so that a reference can be compared and hashed."""
    if isinstance(value, Mapping):
        return ("{}", *((key, frozen(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return ("[]", *(frozen(item) for item in value))
    return value


def thawed(value: Any) -> Any:
    """The plain data that `frozen` was made of."""
    if isinstance(value, tuple):
        return {key: thawed(item) for key, item in value[1:]} if value[0] == "{}" else [thawed(i) for i in value[1:]]
    return value
