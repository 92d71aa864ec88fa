"""What fails in a run as annotations of GitHub Actions, at the lines of the tests: its workflow commands.

    ::error file=tests/test_chat.py,line=12,title=REGRESSED test_turn::tpot_ms 8.1 → 8.9 ms …

GitHub shows ten of a step. A line ends a command, so that `%`, line ends and, in what stands before the text, `:` and
`,` are written as `%25`, `%0A`, `%3A` and so on.
"""

from __future__ import annotations

from pytest_llmperf.reports.run import Run
from pytest_llmperf.reports.table import advice, explained, failure
from pytest_llmperf.results import Result

MOST = 10
"""Of a step; GitHub drops all others of its kind without a word."""
_LONGEST = 4000
"""Characters of one; GitHub cuts at 4,096."""
_LONGEST_TITLE = 255
"""Of its title; GitHub refuses longer ones."""


def written(run: Run) -> str:
    """A line for each that fails, worst first; if they are too many, the last says how many more there are."""
    commands = [
        *([command(run.fault, title="llmperf")] if run.fault else []),
        *(command(_told(result), _title(result), run.places.get(result.test, "")) for result in run.failing),
        *(command(why, f"failed: {_name(test)}", run.places.get(test, "")) for test, why in run.failures.items()),
    ]
    if len(commands) > MOST:
        more = f"{len(commands) - MOST + 1} more fail: the summary of this step has them all"
        commands = [*commands[: MOST - 1], command(more, title="llmperf")]
    return "".join(f"{line}\n" for line in commands)


def command(message: str, title: str, place: str = "", kind: str = "error") -> str:
    """One workflow command.

    Args:
        place: `tests/test_chat.py:12`, from the repository's root on.
        kind: error, warning or notice.
    """
    file, _, line = place.rpartition(":")
    named = {"file": file, "line": line, "title": title[:_LONGEST_TITLE]}
    properties = ",".join(f"{name}={_property(text)}" for name, text in named.items() if text)
    return f"::{kind} {properties}::{_data(message[:_LONGEST])}"


def _title(result: Result) -> str:
    return f"{result.verdict.value if result.verdict else 'failed'} {_name(result.key)}"


def _name(key: str) -> str:
    return key.partition("::")[2] or key


def _told(result: Result) -> str:
    """What fails, and why, as far as it is known."""
    hints = [note for table in explained(result) for note in table.notes]
    return "\n".join([failure(result), *hints, *advice(result)])


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
