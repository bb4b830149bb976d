"""Run one function in a process of its own, so that its CPU and memory are measured alone.

``python -m benchmarks.child MODULE:FUNCTION '{"keyword": "argument"}'`` prints what the function
returns as JSON. That is how every figure is made, so any single one can be made again by hand.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")
Sample = Mapping[str, float]


class Absent(Exception):
    """What was to be measured is not installed, or cannot do this."""


class Failed(Exception):
    """The measured process ended with an error."""


def in_memory() -> str:
    """A folder on tmpfs where there is one, so that no disk is measured."""
    return str(MEMORY) if os.access(MEMORY, os.W_OK) else tempfile.gettempdir()


def run(function: Callable[..., Sample], /, **arguments: Any) -> dict[str, float]:
    """Call ``function(**arguments)`` in a fresh interpreter and return its sample.

    The sample gets two more figures, which hold all of the process, from its start to its end:
    ``process`` (wall seconds) and ``process_cpu`` (CPU seconds, with its children's).

    Raises:
        Absent: Something that the function needs is not installed.
        Failed: The function failed; the message is the last line that it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.child"]
    command += [f"{function.__module__}:{function.__qualname__}", json.dumps(arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    # Temporary files are no disk's matter, either.
    environment["TMPDIR"] = in_memory()
    # The measured program, not the checks of a developer's Python.
    environment.pop("PYTHONDEVMODE", None)
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, cwd=ROOT, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        out = process.stdout.read()
        # Its own usage, which no neighbour's adds to.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        said.seek(0)
        errors = said.read().decode(errors="replace").strip()
    if process.returncode:
        raise Failed(f"{' '.join(command)}\n{errors}")
    sample = json.loads(out)
    if "absent" in sample:
        raise Absent(sample["absent"])
    return {**sample, "process": wall, "process_cpu": usage.ru_utime + usage.ru_stime}


def main() -> None:
    where, arguments = sys.argv[1:]
    # Whatever a library prints must not get between the lines of the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = where.split(":")
    try:
        sample = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    except (ImportError, NotImplementedError) as error:
        sample = {"absent": str(error) or type(error).__name__}
    answer.write(json.dumps(sample))
    answer.flush()
    # A peer's threads or event loops may wait for one another here; the figures are made.
    os._exit(0)


if __name__ == "__main__":
    main()
