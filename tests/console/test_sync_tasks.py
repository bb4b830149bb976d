"""``sync --tasks``: workers copy; whatever becomes of them, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import django
import pytest
from django.conf import settings

from tests.console.conftest import PATIENCE, ROOT, backend
from tests.contract.helpers import raw_names, read, remove_temporaries
from tests.contract.relay import Relay

FEW_SERVERS = True

COUNT = 100
SETTINGS = """
import os
from pathlib import PosixPath
from tests.settings import *
TASKS_APPS = ["django_tasks", "django_tasks_db"] if {old} else ["django_tasks_db"]
INSTALLED_APPS.remove("tests.console.gallery")
INSTALLED_APPS = [*INSTALLED_APPS, *TASKS_APPS, "tests.console.impatient.Impatient"]
DATABASES = {{"default": {{
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": {database!r},
    "OPTIONS": {{"timeout": 30, "transaction_mode": "IMMEDIATE"}},
}}}}
TASKS = {{"default": {{"BACKEND": "django_tasks_db.DatabaseBackend"}}}}
STORAGES = {storages!r}
STORAGES["nas"]["OPTIONS"].update(eval(os.environ.get("NAS", "{{}}")))
"""


class Site:
    """A project whose processes share a queue in a database."""

    def __init__(self, folder, storages):
        self.folder = folder
        self.children = []
        (folder / "its_settings.py").write_text(
            SETTINGS.format(
                old=django.VERSION < (6,), database=str(folder / "db.sqlite3"), storages=storages
            )
        )
        assert self.start("migrate", "-v0").wait(PATIENCE) == 0

    def start(self, *words, **nas):
        """Start a management command, perhaps with other options for ``nas``."""
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "its_settings",
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
            "NAS": repr(nas),
        }
        child = subprocess.Popen(
            [sys.executable, "-m", "django", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.children.append(child)
        return child

    def worker(self, **nas):
        """Start a worker that runs until the queue is empty for good, or it is killed."""
        words = ["--interval", "0.1", "--no-startup-delay", "--no-reload"]
        return self.start("db_worker", *words, **nas)

    def sync(self, *words):
        return self.start("netstorage", "sync", "disk:", "nas:media", "--tasks", *words)

    def close(self):
        for child in self.children:
            child.kill()
            child.communicate()


@pytest.fixture
def site(nas, server, tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    site = Site(
        folder,
        {
            "nas": {"BACKEND": backend(server), "OPTIONS": settings.STORAGES["nas"]["OPTIONS"]},
            "disk": {
                "BACKEND": "django.core.files.storage.FileSystemStorage",
                "OPTIONS": {"location": str(tmp_path / "disk")},
            },
        },
    )
    yield site
    site.close()


@pytest.fixture
def files(tmp_path):
    """Files on the disk, a day old."""
    contents = {}
    for number in range(COUNT):
        name = f"{number % 3}/ü {number}.bin"
        path = tmp_path / "disk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        contents[name] = os.urandom(number * 100)
        path.write_bytes(contents[name])
        os.utime(path, (time.time() - 86_400,) * 2)
    return contents


def ended(child, status=0):
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == status, err.decode()
    return out.decode(), err.decode()


def found(nas):
    return {
        f"{folder}/{name}": read(nas, f"media/{folder}/{name}")
        for folder in raw_names(nas, "media")
        for name in raw_names(nas, f"media/{folder}")
    }


def test_several_workers_share_the_files(site, nas, files):
    workers = [site.worker(), site.worker()]
    out, err = ended(site.sync())
    assert (out, err) == (f"{COUNT} files (483 KiB) copied, 0 the same\n", "")
    assert found(nas) == files
    assert ended(site.sync()) == (f"0 files (0 B) copied, {COUNT} the same\n", "")
    assert all(worker.poll() is None for worker in workers)


def test_a_worker_that_is_killed(site, nas, server, files):
    """Another one takes its batch, and goes on where it stopped."""
    with Relay(server) as relay:
        victim = site.worker(**{k: relay.options[k] for k in ("port", "url") if k in relay.options})
        relay.hold_after(20_000)
        sync = site.sync()
        relay.wait_until_held()
        site.worker()
        site.worker()
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    out, err = ended(sync)
    assert err == ""
    assert out.startswith(f"{COUNT} files") or " the same" in out
    remove_temporaries(server, nas)
    assert found(nas) == files
