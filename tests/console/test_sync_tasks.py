"""``sync --tasks``: workers copy; whatever becomes of them, nothing is lost."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import django
import pytest
from celery.loaders.base import find_related_module
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.core.management import CommandError
from django.db import OperationalError
from django.test import override_settings
from django.utils.module_loading import import_string

import netstorage
from netstorage import tasks
from netstorage.console import fanout
from netstorage.console.differences import Difference
from netstorage.console.fanout import BatchPage
from netstorage.console.journal import Journal, Page, page_name
from netstorage.console.place import place
from tests.console.conftest import PATIENCE, ROOT, backend
from tests.console.test_processes import lose_server
from tests.contract.helpers import read, remove_temporaries
from tests.contract.relay import Relay
from tests.servers import keeper

FEW_SERVERS = True

COUNT = 100
DUMMY = f"{'django_tasks' if django.VERSION < (6,) else 'django.tasks'}.backends.dummy.DummyBackend"
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
CHANGES = eval(os.environ["NAS"])
if "elsewhere" in CHANGES:
    STORAGES["disk"]["OPTIONS"]["location"] = CHANGES.pop("elsewhere")
STORAGES.pop(CHANGES.pop("forget", None), None)
STORAGES["nas"]["OPTIONS"].update(CHANGES)
"""
ON_CELERY = """
from pathlib import Path
from celery.signals import after_task_publish
from tests.endurance.broker import make_app
FOLDER = Path({folder!r})
INSTALLED_APPS += ["django_tasks_fennel"]
TASKS = {{"default": {{"BACKEND": "django_tasks_fennel.CeleryBackend"}}}}
app = make_app(FOLDER)
app.conf.update(task_default_queue="default", worker_prefetch_multiplier=1)
app.conf.broker_transport_options["polling_interval"] = 0.1
app.autodiscover_tasks()

# A worker would take a message that is not yet written, too.
@after_task_publish.connect
def deliver(**about):
    for message in (FOLDER / "sent").iterdir():
        message.rename(FOLDER / "queue" / message.name)
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

    def start(self, *words, module="django", output=subprocess.PIPE, **nas):
        """Start a management command, perhaps with other options for ``nas``."""
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "its_settings",
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
            "NAS": repr(nas),
        }
        child = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            env=environment,
            stdout=output,
            stderr=output,
        )
        self.children.append(child)
        return child

    def worker(self, **nas):
        """Start a worker that runs until it is killed, and wait until it looks for work."""
        words = ["--interval", "0.1", "--no-startup-delay", "--no-reload"]
        worker = self.start("db_worker", *words, **nas)
        assert b"Starting worker" in worker.stdout.readline()
        return worker

    def sync(self, *words, **nas):
        return self.start("netstorage", "sync", "disk:", "nas:media", "--tasks", *words, **nas)

    def close(self):
        for child in self.children:
            child.kill()
            child.communicate()


class CelerySite(Site):
    """A project whose queue is a folder, and whose workers are Celery's."""

    def __init__(self, folder, storages):
        super().__init__(folder, storages)
        for name in ("sent", "queue", "control", "results"):
            (folder / name).mkdir()
        with (folder / "its_settings.py").open("a") as file:
            file.write(ON_CELERY.format(folder=str(folder)))
        self.families = {}
        """The processes of each worker, the one that forks before the others."""

    def worker(self, **nas):
        """Start a worker that forks once, and wait until it looks for work."""
        log = self.folder / f"worker-{len(self.children)}.log"
        words = ["-A", "its_settings", "worker", "-n", f"{log.stem}@site", "-l", "INFO"]
        words += ["-c", "1", "--without-mingle", "--without-gossip"]
        with log.open("wb") as output:
            worker = self.start(*words, module="celery", output=output, **nas)
        self.families[worker] = [worker.pid]
        wait_for(lambda text: f"{log.stem}@site ready" in text, log)
        self.families[worker] += keeper.descendants(worker.pid)
        return worker, log

    def kill(self, worker):
        """Kill all of it at once, as a machine that fails does."""
        family = self.families.pop(worker)
        keeper.send([*family, *keeper.descendants(worker.pid)], signal.SIGKILL)
        worker.wait()

    def end(self, worker):
        """Let it end what it is at, and see that nothing of it is left."""
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
        assert not any(os.path.exists(f"/proc/{pid}") for pid in self.families.pop(worker))

    def close(self):
        for worker in list(self.families):
            self.kill(worker)
        super().close()


@pytest.fixture
def site(request, nas, server, tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    site = getattr(request, "param", Site)(
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


@pytest.fixture
def anew(monkeypatch):
    """Import the tasks as Celery's workers do, whatever the site has."""

    def anew():
        monkeypatch.setattr(netstorage, "tasks", tasks)  # to be there again afterwards
        monkeypatch.delitem(sys.modules, tasks.__name__)
        find_related_module("netstorage", "tasks")

    return anew


def through(relay):
    """The options of a worker that meets the server by way of the relay."""
    return {name: relay.options[name] for name in ("port", "url") if name in relay.options}


@pytest.fixture
def held(site, nas, server, files):
    """A worker that meets the server by way of a relay, which will stop it in mid-upload."""
    with Relay(server) as relay:
        worker = site.worker(**through(relay))
        relay.hold_after(20_000)
        yield relay, worker
    remove_temporaries(server, nas)


def ended(child, status=0):
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == status, err.decode()
    return out.decode(), err.decode()


def wait_for(what, log):
    deadline = time.monotonic() + PATIENCE
    while not what(log.read_text()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def found(nas):
    return {
        f"{folder}/{name}": read(nas, f"media/{folder}/{name}")
        for folder in (nas.listdir("media")[0] if nas.exists("media") else ())
        for name in nas.listdir(f"media/{folder}")[1]
    }


def test_several_workers_share_the_files(site, nas, files):
    workers = [site.worker(), site.worker()]
    out, err = ended(site.sync())
    assert (out, err) == (f"{COUNT} files (483 KiB) copied, 0 the same\n", "")
    assert found(nas) == files
    assert ended(site.sync()) == (f"0 files (0 B) copied, {COUNT} the same\n", "")
    assert all(worker.poll() is None for worker in workers)


def test_a_worker_that_is_killed(site, nas, held, files):
    """Another one takes its batch, and goes on where it stopped."""
    relay, victim = held
    sync = site.sync()
    relay.wait_until_held()
    site.worker()
    site.worker()
    victim.kill()
    victim.wait()
    relay.cut()
    out, err = ended(sync)
    assert err == ""
    # What it had copied, and not yet told of, was found to be the same.
    match = re.fullmatch(r"(\d+) files? \(.*\) copied, (\d+) the same\n", out)
    assert match
    assert int(match[1]) + int(match[2]) == COUNT
    assert found(nas) == files


@pytest.mark.parametrize("server", ["embedded-sftp"], indirect=True)
@pytest.mark.parametrize("site", [CelerySite], indirect=True, ids=["celery"])
def test_a_celery_worker_that_is_killed(site, nas, server, files):
    """With it go the batch that it was at, and the one that it had fetched ahead."""
    with Relay(server) as relay:
        victim, victims_log = site.worker(**through(relay))
        worker, log = site.worker()
        # The other one leaves it something to do.
        worker.send_signal(signal.SIGSTOP)
        # More than several sessions have under way at once, and less than all.
        relay.hold_after(200_000)
        sync = site.sync()
        relay.wait_until_held()
        assert 0 < len(found(nas)) < COUNT
        wait_for(lambda text: text.count(" received") > text.count(" state=RUNNING"), victims_log)
        site.kill(victim)
        worker.send_signal(signal.SIGCONT)
        relay.cut()
        out, _ = ended(sync)
    # What it had copied, and not yet told of, was found to be the same.
    match = re.fullmatch(r"(\d+) files? \(.*\) copied, (\d+) the same\n", out)
    assert match
    assert int(match[1]) + int(match[2]) == COUNT
    assert found(nas) == files
    site.end(worker)
    assert " succeeded in " in log.read_text()
    remove_temporaries(server, nas)


def test_ctrl_c(site, nas, held, files):
    """Workers end, too; the next sync does the rest."""
    relay, worker = held
    sync = site.sync()
    relay.wait_until_held()
    sync.send_signal(signal.SIGINT)
    out, err = ended(sync, 130)
    relay.release()
    assert out == ""
    assert re.fullmatch(
        rf"CommandError: Interrupted: \d+ of {COUNT} were copied\. "
        r"Workers end what they are at\.\n",
        err,
    )
    # It looks soon whether its work is wanted, and does no more than what was under way.
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=PATIENCE)
    before = found(nas)
    assert before.items() <= files.items()
    assert len(before) < COUNT
    out, _ = ended(site.start("netstorage", "sync", "disk:", "nas:media"))
    assert re.match(rf"{COUNT - len(before)} files .* copied, {len(before)} the same\n", out)
    assert found(nas) == files


def test_a_server_that_goes_away(site, nas, held, files):
    """A line that says so; when it is back, the next sync does the rest."""
    relay, worker = held
    lose_server(site.sync(**through(relay)), relay)
    worker.kill()
    worker.wait()
    assert found(nas).items() <= files.items()
    ended(site.start("netstorage", "sync", "disk:", "nas:media"))
    assert found(nas) == files


def test_a_worker_that_cannot(site, nas, files):
    """Its batch is given to others, and in the end its files are told, each with the reason."""
    # A worker of another project, so to speak: it does not know the alias.
    site.worker(forget="disk")
    out, err = ended(site.sync(), 1)
    assert out == "0 files (0 B) copied, 0 the same\n"
    lines = err.splitlines()
    assert lines[0] == f"CommandError: {COUNT} were not copied:"
    assert len(lines) == 1 + COUNT
    assert lines[1].endswith(
        ": given to 3 workers, and none came to its end (argparse.ArgumentTypeError)"
    )
    assert "media" not in nas.listdir("")[0] or found(nas) == {}


def test_a_worker_that_sees_another_disk(site, nas, files, tmp_path):
    """What it does not find is not taken for gone; nothing is removed then."""
    nas.save("media/0/extra", ContentFile(b"x"))
    site.worker(elsewhere=str(tmp_path / "nowhere"))
    out, err = ended(site.sync("--delete"), 1)
    assert out == "0 files (0 B) copied, 0 removed, 0 the same\n"
    lines = err.splitlines()
    assert lines[:2] == [
        "Nothing was removed from nas:media, as not all was copied.",
        f"CommandError: {COUNT} were not copied:",
    ]
    assert len(lines) == 2 + COUNT
    assert lines[2].endswith(": is there, but a worker did not find it. Do all see the same files?")
    assert found(nas) == {"0/extra": b"x"}


def all_arrive(run, nas, files, queue):
    with override_settings(TASKS={"default": {"BACKEND": f"{__name__}.{queue.__name__}"}}):
        out = run("sync", "disk:", "nas:media", "--tasks")
    assert out == f"{COUNT} files (483 KiB) copied, 0 the same\n"
    assert found(nas) == files


class TestInOneProcess:
    """With backends that need no worker, or have none."""

    def test_the_immediate_backend(self, run, nas, files):
        """Django's own default does it at once."""
        words = ["sync", "disk:", "nas:media", "--tasks"]
        assert run(*words) == f"{COUNT} files (483 KiB) copied, 0 the same\n"
        assert found(nas) == files
        assert run(*words) == f"0 files (0 B) copied, {COUNT} the same\n"

    @pytest.mark.parametrize("words", [[], ["--tasks"]], ids=["alone", "tasks"])
    def test_a_plan_is_gone_through_once(self, run, nas, files, monkeypatch, words):
        """Each file is read from it once, however many batches there are."""
        names = []

        def note(line):
            names.append(reads(line).name)
            return reads(line)

        reads = Difference.read
        monkeypatch.setattr(Difference, "read", note)
        monkeypatch.setattr(fanout, "FILES", 10)
        assert run("sync", "disk:", "nas:media", *words).startswith(f"{COUNT} files")
        # Workers read the lines that they are given, once more.
        assert sorted(names) == sorted([*files] * (1 + len(words)))

    def test_nobody_works(self, run, nas, files, monkeypatch, capsys):
        """The dummy backend keeps tasks, as a queue does that has no workers."""
        monkeypatch.setattr(fanout, "DEAD", 0.2)
        monkeypatch.setattr(fanout, "PATIENCE", 0.5)
        monkeypatch.setattr(fanout, "POLL", 0.05)
        with (
            override_settings(TASKS={"default": {"BACKEND": DUMMY}}),
            pytest.raises(CommandError, match=rf"^No worker .* \(0 of {COUNT} were copied\)\."),
        ):
            run("sync", "disk:", "nas:media", "--tasks")
        assert "No worker has begun yet. Does one run?" in capsys.readouterr().err
        assert found(nas) == {}
        Journal(place("disk:"), place("nas:media"), checksum=False).remove()

    def test_without_the_framework(self, run, nas, files, anew, monkeypatch):
        for name in ("django.tasks", "django_tasks"):
            monkeypatch.setitem(sys.modules, name, None)
        anew()
        with pytest.raises(CommandError, match=r"with Django 5\.2, install django-tasks\."):
            run("sync", "disk:", "nas:media", "--tasks")
        assert not nas.exists("media")

    def test_without_our_queue(self, run, nas, files, anew):
        """A site may name its queues, and have none that is called `default`."""
        with override_settings(TASKS={"default": {"BACKEND": DUMMY, "QUEUES": ["mail"]}}):
            anew()
            with pytest.raises(CommandError, match=r"^--tasks uses the queue 'default'.* TASKS: "):
                run("sync", "disk:", "nas:media", "--tasks")
        assert not nas.exists("media")

    def test_no_result_can_be_had(self, run, nas, files):
        """Celery may have been told to keep none; the journal tells enough."""
        all_arrive(run, nas, files, Mute)

    def test_a_queue_that_loses_tasks(self, run, nas, files, monkeypatch):
        """What a killed worker had fetched ahead is lost with it, or comes an hour later."""
        monkeypatch.setattr(fanout, "FILES", 20)
        monkeypatch.setattr(fanout, "DEAD", 0.2)
        monkeypatch.setattr(fanout, "PATIENCE", 5)
        monkeypatch.setattr(fanout, "POLL", 0.05)
        all_arrive(run, nas, files, Forgetful)

    def test_a_queue_with_little_time(self, run, nas, files, monkeypatch):
        """RQ ends tasks after three minutes; as long as each copies a few files, all get there."""
        monkeypatch.setattr(fanout, "POLL", 0.05)
        all_arrive(run, nas, files, Hasty)

    def test_a_queue_that_takes_nothing(self, run, nas, files):
        """Its tables are not migrated, say: a line tells what to do, and the next sync does it."""
        backend = {"BACKEND": f"{__name__}.Broken"}
        with (
            override_settings(TASKS={"default": backend}),
            pytest.raises(CommandError, match=r"^The setting TASKS .*no such table.*migrated"),
        ):
            run("sync", "disk:", "nas:media", "--tasks")
        assert run("sync", "disk:", "nas:media").startswith(f"{COUNT} files")

    def test_done_twice(self, run, nas, files, tmp_path):
        """A queue may deliver a batch twice; a batch that nobody wants any more does nothing."""
        source, dest = place("disk:"), place("nas:media")
        journal = Journal(source, dest, checksum=False)
        names = sorted(files)[:10]
        lengths = {**{name: len(files[name]) for name in names}, "0/missing": 3}
        batch = {
            "run": page_name(),
            "page": page_name(),
            "source": "disk:",
            "dest": "nas:media",
            "lines": [str(Difference(*each)) for each in lengths.items()],
            "checksum": False,
            "jobs": None,
        }
        tasks.copy_batch.func(**batch)
        assert journal.pages() == []
        journal.write(batch["run"], Page())
        for _ in range(2):
            tasks.copy_batch.func(**batch)
            page = BatchPage.read(journal, batch["page"])
            assert (page.is_finished, page.failed) == (True, [])
            assert (len(page.done), page.counts.copied, page.gone) == (10, 10, ["0/missing"])
        # Another worker had it, and died before it could write its page.
        batch["page"] = page_name()
        tasks.copy_batch.func(**batch)
        page = BatchPage.read(journal, batch["page"])
        assert (page.counts.copied, page.counts.same, page.gone) == (0, 10, ["0/missing"])
        assert found(nas) == {name: files[name] for name in names}
        journal.remove()

    def test_killed_before_it_told(self, nas, files, monkeypatch):
        """What it had copied, and not told of, is counted once, by the worker that finds it."""
        journal = Journal(place("disk:"), place("nas:media"), checksum=False)
        names = sorted(files)[:10]
        batch = {"run": page_name(), "page": page_name(), "source": "disk:", "dest": "nas:media"}
        batch["lines"] = [str(Difference(name, len(files[name]))) for name in names]
        journal.write(batch["run"], Page())

        def die(worker, *args, **options):
            journal.write(batch["page"], worker.page())
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(tasks._Batch, "_note", die)
            tasks.copy_batch.func(**batch, checksum=False, jobs=1)
        assert BatchPage.read(journal, batch["page"]).done == []
        tasks.copy_batch.func(**batch, checksum=False, jobs=1)
        page = BatchPage.read(journal, batch["page"])
        assert len(page.done) == page.counts.copied + page.counts.same == 10
        assert page.counts.same > 0
        journal.remove()

    def test_names_that_lead_elsewhere(self, nas, files):
        """Whoever writes into the queue does not write outside of the target."""
        journal = Journal(place("disk:"), place("nas:media"), checksum=False)
        batch = {"run": page_name(), "page": page_name(), "source": "disk:", "dest": "nas:media"}
        journal.write(batch["run"], Page())
        lines = [str(Difference("../../outside", 3))]
        tasks.copy_batch.func(**batch, lines=lines, checksum=False, jobs=None)
        page = BatchPage.read(journal, batch["page"])
        assert [name for name, _ in page.failed] == ["../../outside"]
        journal.remove()

    def test_single_failures(self, run, nas, files, tmp_path):
        """They are told as without workers, and the others are copied."""
        bad = sorted(files)[:3]
        aliases = {**settings.STORAGES, "disk": grudging(tmp_path, bad)}
        with override_settings(STORAGES=aliases), pytest.raises(CommandError) as info:
            run("sync", "disk:", "nas:media", "--tasks")
        lines = [f"disk:{name} -> nas:media/{name}: is not for you" for name in bad]
        told = str(info.value).splitlines()
        assert told[0] == "3 were not copied:"
        assert sorted(told[1:]) == sorted(lines)
        assert found(nas) == {name: files[name] for name in set(files) - set(bad)}

    def test_what_is_gone_meanwhile_is_no_failure(self, run, nas, files, tmp_path):
        bad = sorted(files)[:3]
        aliases = {**settings.STORAGES, "disk": grudging(tmp_path, bad, "Vanishing")}
        with override_settings(STORAGES=aliases):
            out = run("sync", "disk:", "nas:media", "--tasks")
        assert out.endswith(" copied, 0 the same, 3 gone in the meantime\n")
        assert found(nas) == {name: files[name] for name in set(files) - set(bad)}


class Broken(import_string(DUMMY)):
    """A queue that is not set up."""

    def enqueue(self, task, args, kwargs):
        raise OperationalError("no such table: django_tasks_db_dbtaskresult")


class Mute(import_string(DUMMY)):
    """A queue whose tasks are done when somebody asks, but it tells nothing."""

    supports_get_result = True

    def get_result(self, result_id):
        result = super().get_result(result_id)
        result.task.call(**result.kwargs)
        raise ImproperlyConfigured("no results are kept")


class Forgetful(import_string(DUMMY)):
    """A queue that loses each batch but the first, until it is given once more."""

    def enqueue(self, task, args, kwargs):
        is_first = not self.results
        is_known = any(each.kwargs["page"] == kwargs["page"] for each in self.results)
        if is_first or is_known:
            task.call(**kwargs)
        return super().enqueue(task, args, kwargs)


class Hasty(import_string(DUMMY)):
    """A queue that ends each task when it has copied 20 files more."""

    supports_get_result = True

    def enqueue(self, task, args, kwargs):
        result = super().enqueue(task, args, kwargs)
        lines = kwargs["lines"][: 20 * len(self.results)]
        task.call(**{**kwargs, "lines": lines})
        if lines != kwargs["lines"]:
            journal = Journal(place("disk:"), place("nas:media"), checksum=False)
            page = replace(BatchPage.read(journal, kwargs["page"]), is_finished=False)
            journal.write(kwargs["page"], page)
            object.__setattr__(self.results[-1], "status", "FAILED")
        return result


class Grudging(FileSystemStorage):
    """A disk that does not open some of its files."""

    def __init__(self, bad, **options):
        super().__init__(**options)
        self.bad = bad

    def _open(self, name, mode="rb"):
        if name in self.bad:
            raise PermissionError(errno.EACCES, "is not for you", name)
        return super()._open(name, mode)


class Vanishing(Grudging):
    """A disk some of whose files are removed before they are read."""

    def _open(self, name, mode="rb"):
        if name in self.bad:
            self.delete(name)
        return FileSystemStorage._open(self, name, mode)


def grudging(tmp_path, bad, backend="Grudging"):
    options = {"location": tmp_path / "disk", "bad": bad}
    return {"BACKEND": f"{__name__}.{backend}", "OPTIONS": options}
