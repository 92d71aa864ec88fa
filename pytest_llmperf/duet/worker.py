"""A process of its own that holds one target warm, and takes turns with another as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.baselines.environment import environment_of
from pytest_llmperf.duet.channel import FAULT, Process, own_channel, python
from pytest_llmperf.duet.partner import PATIENCE_S
from pytest_llmperf.duet.script import Pace, Side, other
from pytest_llmperf.duet.sides import Line, follow
from pytest_llmperf.errors import LlmperfError, UsageError
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.model import Environment, Workload, plain
from pytest_llmperf.targets import LoadOptions, Reference, resolve
from pytest_llmperf.targets.cache import TargetCache


@dataclass(frozen=True)
class Job:
    """What a worker loads, warms up and serves.

    Args:
        effort: for warming up, and the threads throughout.
    """

    reference: Reference
    options: LoadOptions
    workload: Workload
    effort: Effort = field(default_factory=Effort)

    def to_plain(self) -> dict[str, Any]:
        """As JSON holds it.

        Raises:
            UsageError: another process could not load the same.
        """
        target = self.reference.id
        if resolve(target) != self.reference:
            raise UsageError(f"{target} cannot be loaded in another process, which knows a target by its name alone")
        try:
            json.dumps(dict(self.options.load))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{target}: load={dict(self.options.load)!r} cannot go to another process: {error}"
            ) from None
        return {"target": target, **{name: plain(getattr(self, name)) for name in ("options", "workload", "effort")}}

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> Job:
        return cls(
            resolve(record["target"]),
            LoadOptions(**record["options"]),
            Workload(**record["workload"]),
            Effort(**record["effort"]),
        )


@dataclass(frozen=True)
class Ready:
    """What a worker says of itself once its target is warm."""

    target: str
    workload: Workload
    environment: Environment
    pace: Pace


class Worker(Process):
    """The end that tells, and is ready once its target is warm. The worker ends with it, whatever it is doing.

    Raises:
        LlmperfError: the worker could not make ready; then it has ended.
    """

    def __init__(self, job: Job, side: Side) -> None:
        record = job.to_plain()
        super().__init__(python(__name__), side)
        try:
            self.tell("job", side=side, **record)
            said = self.hear("ready", patience=PATIENCE_S)
        except BaseException:
            self.close()
            raise
        environment = Environment(**said["environment"])
        self.ready = Ready(said["target"], Workload(**said["workload"]), environment, Pace(**said["pace"]))


@contextmanager
def pair(job: Job, first: Side = "base") -> Iterator[dict[Side, Worker]]:
    """Two processes of the same job, loaded and warmed up one after the other; both end with the block.

    Args:
        first: the side whose process is started first.

    Raises:
        LlmperfError: one of them could not be made ready.
    """
    with Worker(job, first) as one, Worker(job, other(first)) as two:
        yield {first: one, other(first): two}


def serve(line: Line) -> None:
    """The worker's own end of all that is said."""
    message = line.hear("job")
    job = Job.from_plain(message)
    target, _ = TargetCache().load(job.reference, job.options)
    environment = environment_of(target, job.effort.threads)
    said = {"target": target.id, "workload": plain(job.workload), "environment": plain(environment)}
    measure(target, job.workload, job.effort, taken=follow(line, message["side"], **said))


def main() -> int:
    channel = own_channel()
    try:
        serve(channel)
    except LlmperfError as error:
        channel.tell(FAULT, why=str(error), misuse=isinstance(error, UsageError))
    except Exception as error:
        channel.tell(FAULT, why=f"{type(error).__name__}: {error}")
    return 0
