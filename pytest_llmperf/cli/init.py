"""The command `llmperf init`: from nothing to a pull request that is gated. Nothing that exists is touched."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

from pytest_llmperf.baselines.store import BESIDE
from pytest_llmperf.errors import UsageError
from pytest_llmperf.git import ask

_RUNNERS = {"cpu": ("ubuntu-latest",), "gpu": ("self-hosted", "gpu")}
_TEST = "tests/performance/test_llm_speed.py"
_TORCH = "https://download.pytorch.org/whl/cpu"
"""Where pip finds a torch that does not bring along the libraries of GPUs."""
_OURS = "'pytest-llmperf[html]'"
"""As a shell has it: with what the page needs that the action keeps."""
_TEMPLATES = Path(__file__).parent / "templates"


def init(parsed: argparse.Namespace) -> int:
    """Write what is not there yet, and say what is next."""
    labels = _labels(parsed.runner)
    device = "cuda" if parsed.runner == "gpu" and parsed.device == "auto" else parsed.device
    folder = parsed.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    repository = _repository(folder)
    top = repository or folder
    files = {
        folder / _TEST: _template("test_llm_speed.txt"),
        **{folder / "baselines" / name: text for name, text in BESIDE.items()},
        top / ".github" / "actions" / "llmperf" / "action.yml": _template("action.yml"),
        top / ".github" / "workflows" / "performance.yml": _workflow(labels, device, folder, top),
    }
    left = [file for file in files if not _written(file, files[file])]
    for file in files:
        name = os.path.relpath(file, folder)
        print(f"left as it is, for it exists: {name}" if file in left else f"wrote {name}")
    print("\n".join(_next(device, os.path.relpath(top, folder), isolated=repository is None)))
    return 0


def _labels(runner: str) -> tuple[str, ...]:
    labels = _RUNNERS.get(runner) or tuple(label.strip() for label in runner.split(","))
    for label in labels:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", label, re.ASCII):
            raise UsageError(
                f"--runner {runner}: {label!r} is no label: expected cpu, gpu, or labels such as linux,a100"
            )
    return labels


def _repository(folder: Path) -> Path | None:
    """The top of the git repository that holds a folder."""
    try:
        top = ask(folder, "rev-parse", "--show-toplevel")
    except UsageError:  # no git
        return None
    return Path(top) if top else None


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _workflow(labels: tuple[str, ...], device: str, folder: Path, top: Path) -> str:
    own = "self-hosted" in labels
    given = [f"--llmperf-device={device}"] if device != "auto" else []
    inside = folder.resolve().relative_to(top.resolve()).as_posix()
    values = {
        "runner": labels[0] if len(labels) == 1 else f"[{', '.join(labels)}]",
        "packages": " ".join(_packages(folder)),
        "index": _TORCH if device in ("auto", "cpu") else '""',
        "args": " ".join(["tests/performance", *given]),
        "folder": inside if re.fullmatch(r"[\w./-]+", inside, re.ASCII) else json.dumps(inside, ensure_ascii=False),
    }
    text = _template("own.yml" if own else "hosted.yml")
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    return text


def _packages(folder: Path) -> list[str]:
    """What pip installs: the project, where the folder holds one, and this package."""
    project = any((folder / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg"))
    listed = (folder / "requirements.txt").is_file()
    return [*(["-r", "requirements.txt"] if listed else []), *(["-e", "."] if project else []), _OURS]


def _written(file: Path, text: str) -> bool:
    """Whether there was no such file, and now is."""
    if os.path.lexists(file):
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8", newline="\n") as new:
        new.write(text)
    return True


def _next(device: str, top: str, *, isolated: bool) -> list[str]:
    """What is to be done now."""
    option = f" --llmperf-device={device}" if device != "auto" else ""
    return [
        "",
        "next:",
        f"  pytest tests/performance{option}",
        f"  put your model into {_TEST}",
        *([f"  git init: {top} is in no repository yet"] if isolated else []),
        "  commit all of it and open a pull request: the workflow measures both sides",
    ]
