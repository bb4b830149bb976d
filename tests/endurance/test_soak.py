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
    """A storage in memory, for the worker's own test."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fails = False

    def save(self, name, content):
        if self.fails:
            raise ConnectionError("gone")
        self.files[name] = content.read()
        return name

    def listdir(self, path):
        return [], [name.removeprefix(f"{path}/") for name in self.files]

    def open(self, name):
        from django.core.files.base import ContentFile

        return ContentFile(self.files[name])


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def worker(shelf):
    return soak.Worker(shelf, shelf, 0, 1)


def test_a_worker_sees_what_is_wrong(worker, shelf):
    name = "w0/0.bin"
    worker.write(name)
    worker.compare(shelf)
    assert worker.wrong == []
    whole, shelf.files[name] = shelf.files[name], b"half"
    worker.compare(shelf)
    assert worker.wrong == [f"{name} holds what nobody wrote"]
    del shelf.files[name]
    worker.compare(shelf)
    assert worker.wrong[1:] == [f"{name} is gone"]

    # After an error both are right: what was, and what was to be.
    shelf.fails, shelf.files[name] = True, whole
    with pytest.raises(ConnectionError):
        worker.write(name)
    worker.compare(shelf)
    assert len(worker.wrong) == 2


def test_a_worker_sees_what_is_doubled(worker, shelf):
    worker.add("")
    worker.compare(shelf)
    assert worker.wrong == []
    shelf.files["w0/new_2.bin"] = shelf.files["w0/new.bin"]
    worker.compare(shelf)
    assert worker.wrong == ["w0/new_2.bin is there, and is nobody's, or another's double"]
    worker.add("")
    assert worker.wrong[1:] == ["w0/new.bin was given out twice"]


def test_what_got_no_answer_may_be_there_once(worker, shelf):
    content = bytearray()

    def save(name, data):
        content.extend(data.read())
        raise ConnectionError("gone")

    shelf.save = save
    with pytest.raises(ConnectionError):
        worker.add("")
    shelf.files["w0/new_1.bin"] = bytes(content)
    worker.compare(shelf)
    assert worker.wrong == []
    worker.untold.add(soak.digest(content))
    shelf.files["w0/new_2.bin"] = bytes(content)
    worker.compare(shelf)
    assert len(worker.wrong) == 1


STATE = {"threads": 1, "descriptors": 5, "thousand blocks": 300, "allocated MiB": 50}
FLAT = {what: [much] * 60 for what, much in STATE.items()}
GOOD = {
    "wrong": [],
    "leftovers that were told": 1,
    "other leftovers": [],
    "most sessions": 4,
    "lent at the end": 0,
    "pools left": 0,
    "done": {"read": 1},
    "struck": {"cut": 1},
    "before": STATE,
    "meanwhile": FLAT,
    "after": STATE,
}


@pytest.mark.parametrize(
    "change",
    [
        {"wrong": ["f is gone"]},
        {"other leftovers": ["w0/.netstorage-1"]},
        {"most sessions": 5},
        {"lent at the end": 1},
        {"pools left": 1},
        {"after": STATE | {"threads": 2}},
        {"after": STATE | {"descriptors": 6}},
        {"meanwhile": FLAT | {"allocated MiB": list(range(0, 240, 4))}},
        {"meanwhile": FLAT | {"descriptors": list(range(60))}},
        {"meanwhile": FLAT | {"thousand blocks": list(range(0, 240, 4))}},
        {"done": {}},
        {"struck": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_report_can_fail(change):
    assert soak.faults(GOOD) == []
    assert len(soak.faults(GOOD | change)) == 1
