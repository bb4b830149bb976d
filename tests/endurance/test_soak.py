"""Load, a small pool and a bad line: a short soak, and the report that can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endurance import soak

ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_under_fire(server):
    """In a process of its own, whose threads and descriptors are the soak's alone."""
    command = [sys.executable, "-m", "tests.endurance.soak", server.name]
    done = subprocess.run(
        [*command, "--threads", "60", "--seconds", "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["faults"] == []
    assert sum(report["done"].values()) > 0
    assert sum(report["struck"].values()) > 0


class Shelf:
    """A storage of one file, for the worker's own test."""

    def __init__(self) -> None:
        self.content: bytes | None = b""
        self.fails = False

    def save(self, name, content):
        if self.fails:
            raise ConnectionError("gone")
        self.content = content.read()
        return name

    def exists(self, name):
        return self.content is not None

    def open(self, name):
        from django.core.files.base import ContentFile

        if self.content is None:
            raise FileNotFoundError(name)
        return ContentFile(self.content)


def test_a_worker_sees_what_is_wrong():
    shelf = Shelf()
    worker = soak.Worker(shelf, 0, 1)
    worker.write("f", worker.may_hold.setdefault("f", {soak.GONE}))
    worker.compare(shelf)
    assert worker.wrong == []
    whole, shelf.content = shelf.content, b"half"
    worker.compare(shelf)
    assert worker.wrong == ["f holds what nobody wrote"]
    shelf.content = None
    worker.compare(shelf)
    assert worker.wrong[1:] == ["f is gone"]

    # After an error both are right: what was, and what was to be.
    shelf.fails, shelf.content = True, whole
    with pytest.raises(ConnectionError):
        worker.write("f", worker.may_hold["f"])
    worker.compare(shelf)
    assert len(worker.wrong) == 2


STATE = {"threads": 1, "descriptors": 5, "resident MiB": 50}
GOOD = {
    "wrong": [],
    "strangers": [],
    "leftovers": 0,
    "leftovers that were told": 0,
    "lent at the end": 0,
    "pools left": 0,
    "done": {"read": 1},
    "struck": {"cut": 1},
    **dict.fromkeys(("before", "early", "late", "after"), STATE),
}


@pytest.mark.parametrize(
    "change",
    [
        {"wrong": ["f is gone"]},
        {"strangers": ["w0/what.bin"]},
        {"leftovers": 1},
        {"lent at the end": 1},
        {"pools left": 1},
        {"after": STATE | {"threads": 2}},
        {"after": STATE | {"descriptors": 6}},
        {"late": STATE | {"resident MiB": 500}},
        {"done": {}},
        {"struck": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_report_can_fail(change):
    assert soak.faults(GOOD) == []
    assert len(soak.faults(GOOD | change)) == 1
