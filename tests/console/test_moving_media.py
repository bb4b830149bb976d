"""The steps of docs/howto-moving.md on a busy site: nothing is lost, and no name clashes.

Each worker stands for a process of the site. It has the storage of the step that it was restarted
with last, and never rests: it saves, reads and deletes. They restart one after the other.
"""

from __future__ import annotations

import io
import random
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Event, Thread

import pytest
from django.core.files.base import ContentFile, File
from django.core.files.storage import FileSystemStorage, storages
from django.core.management.base import CommandError

from tests.console.conftest import PATIENCE, ROOT
from tests.contract.helpers import STRICT, read

FEW_SERVERS = True

PAGE = (ROOT / "docs/howto-moving.md").read_text()
COMMAND = "sync disk: nas: --checksum"
WORKERS = 4
OPERATIONS = 12
"""What each worker does, at the least, between two restarts."""
FILES = 60
"""Above so many nothing is saved."""
PASSES = 20
"""In how many runs of sync one must come by without a failure."""


def steps(nas, disk):
    """The storages of the page, step by step, as a project with this NAS would write them."""
    page: dict[str, type] = {}
    (module,) = re.findall(r"<!-- run: module .*?```python\n(.*?)```", PAGE, re.DOTALL)
    exec(module, page)
    nas_first = type("NASFirst", (page["WithCopy"], type(nas)), {"copy": "disk"})
    return [
        FileSystemStorage(location=disk),
        page["DiskFirst"](location=disk),
        nas_first(**nas.options),
        type(nas)(**nas.options),
    ]


class Site:
    """A site's processes, and the rows of its database: names, and what the files must be."""

    def __init__(self, saving, bases):
        self.saving = saving
        self.bases = bases
        self.rows: dict[str, bytes] = {}
        self.lock = Condition()
        self.steps = [0] * WORKERS
        self.done = [0] * WORKERS
        self.failures: list[BaseException] = []
        self.ended = Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.ended.clear()
        threads = [Thread(target=self.work, args=(number,)) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert not self.failures, self.failures
        assert not any(thread.is_alive() for thread in threads)

    def work(self, number):
        choose = random.Random(number)
        try:
            while not self.ended.is_set():
                (operation,) = choose.choices([self.save, self.read, self.end], [4, 4, 3])
                operation(self.saving[self.steps[number]], choose)
                with self.lock:
                    self.done[number] += 1
                    self.lock.notify_all()
        except BaseException as error:
            self.failures.append(error)

    def save(self, storage, choose):
        if len(self.rows) > FILES:
            return
        content = choose.randbytes(choose.choice([0, 100, 300_000]))
        name = storage.save(choose.choice(self.bases), ContentFile(content))
        with self.lock:
            assert name not in self.rows, f"{name} was given twice"
            self.rows[name] = content

    def read(self, storage, choose):
        with self.lock:
            name, content = choose.choice([*self.rows.items(), (None, None)])
        if name is None:
            return
        try:
            found = read(storage, name)
        except (OSError, ValueError) as error:
            found = error
        with self.lock:
            is_current = self.rows.get(name) is content
        # What was deleted meanwhile may be read or not.
        assert found == content or not is_current, f"{name} in {storage}: {found!r:.100}"

    def end(self, storage, choose):
        with self.lock:
            if len(self.rows) < WORKERS:
                return
            name = choose.choice([*self.rows])
            del self.rows[name]
        storage.delete(name)

    def wait(self):
        """Wait until each process has done a bit more."""
        with self.lock:
            wanted = [done + OPERATIONS for done in self.done]
            self.lock.wait_for(
                lambda: (
                    self.failures or all(x >= y for x, y in zip(self.done, wanted, strict=True))
                ),
                PATIENCE,
            )
        assert not self.failures, self.failures

    def restart(self, step):
        """Bring one process after the other to a step; each works on in between."""
        for number in range(WORKERS):
            # From here on: an operation under way is still one of the step before.
            self.steps[number] = step
            self.wait()

    def sync(self, run, command):
        """Run it as the page does: again, if it tells of failures."""
        assert f"netstorage {command}" in PAGE or f"`{command}`" in PAGE
        for _ in range(PASSES):
            try:
                print(run(*command.split()))
            except CommandError as error:
                print(error)
            else:
                break
        else:
            raise AssertionError("sync fails each time")
        assert not self.failures, self.failures


@pytest.fixture
def site(nas, server, tmp_path):
    """A site at step 0, whose disk has files already."""
    bases = ["a.txt", "b.txt", "dir/a.txt"]
    if server.name not in STRICT:
        # There two saves of one name at the same time are told apart by a look alone.
        bases = [f"{number}.txt" for number in range(10_000)]
    site = Site(steps(nas, tmp_path / "disk"), bases)
    for number in range(30):
        content = random.Random(number).randbytes(5000)
        name = site.saving[0].save(f"old/{number % 7}/{number}.txt", ContentFile(content))
        site.rows[name] = content
    return site


def read_all(storage, rows):
    for name, content in rows.items():
        assert read(storage, name) == content, name


def test_there_and_back(site, run, nas, tmp_path):
    """Once at the NAS, nobody needs the disk; nor the NAS, once the way back is gone."""
    with site.at_work():
        site.restart(1)
        site.sync(run, COMMAND)
        site.restart(2)
        site.restart(3)
    shutil.move(tmp_path / "disk", tmp_path / "old disk")
    assert len(site.rows) >= WORKERS
    read_all(nas, site.rows)
    shutil.move(tmp_path / "old disk", tmp_path / "disk")

    with site.at_work():
        site.restart(2)
        site.sync(run, "sync nas: disk: --checksum")
        site.restart(1)
        site.restart(0)
    read_all(storages["disk"], site.rows)


def test_back_before_the_last_step(site, run):
    """While both get everything, nothing has to be copied to go back."""
    with site.at_work():
        site.restart(1)
        site.sync(run, COMMAND)
        site.restart(2)
        site.restart(1)
        site.restart(0)
    read_all(storages["disk"], site.rows)


class Halting(io.BytesIO):
    """An upload that halts when part of it is on the disk."""

    def __init__(self, content, path):
        super().__init__(content)
        self.path = path
        self.halted, self.go_on = Event(), Event()

    def read(self, size=-1):
        if self.tell() and self.path.exists():
            self.halted.set()
            self.go_on.wait(PATIENCE)
        return super().read(size)


def test_an_upload_that_is_half_on_the_disk(run, nas, tmp_path):
    """Sync takes it for whole; the whole is saved all the same, on both sides."""
    content = random.Random(0).randbytes(300_000)
    upload = Halting(content, tmp_path / "disk/a.bin")
    disk_first = steps(nas, tmp_path / "disk")[1]
    with ThreadPoolExecutor(1) as threads:
        saved = threads.submit(disk_first.save, "a.bin", File(upload))
        try:
            assert upload.halted.wait(PATIENCE)
            assert run(*COMMAND.split()).startswith("1 file ")
        finally:
            upload.go_on.set()
        name = saved.result(PATIENCE)
    assert read(nas, name) == read(storages["disk"], name) == content
