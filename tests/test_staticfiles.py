"""collectstatic: the server gets what Django would put on a disk, and no site sees half of it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from django.contrib.staticfiles.management.commands import collectstatic as djangos
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.core.management import CommandError, call_command
from django.test import override_settings

from netstorage.staticfiles import ManifestSFTPStorage, ManifestWebDAVStorage
from netstorage.staticfiles.management.commands.collectstatic import Command
from tests import settings as base_settings
from tests.contract.helpers import LOCKING, private_storage, read, remove_temporaries, temporaries
from tests.contract.relay import PATIENCE
from tests.servers import fresh_location
from tests.servers.base import free_port

FEW_SERVERS = True
APPS = base_settings.INSTALLED_APPS
ROOT = Path(__file__).parents[1]
MANIFEST = "staticfiles.json"
DJANGOS = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
SOURCES = {
    "css/base.css": "@import 'sub/more.css'; body { background: url('../img/a.png#x') }",
    "css/sub/more.css": "h1 { background: url(../../img/a.png); }",
    "img/a.png": "picture",
    "js/app.js": "go();\n//# sourceMappingURL=app.js.map",
    "js/app.js.map": "{}",
    "robots.txt": "all",
}


def options_of(server, **options):
    """A storage of a test's own, with STORAGES' words."""
    storage = private_storage(server, location=fresh_location(server), **options)
    kind = "ManifestSFTPStorage" if server.protocol == "sftp" else "ManifestWebDAVStorage"
    given = {name: value for name, value in storage._given.items() if name != "base_url"}
    return {"BACKEND": f"netstorage.staticfiles.{kind}", "OPTIONS": given}


class Site:
    """A project with static files."""

    def __init__(self, folder):
        self.source = folder / "source"
        self.write(**SOURCES)

    def write(self, **files):
        for name, text in files.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def settings(self, backend, **settings):
        return override_settings(
            **{
                "INSTALLED_APPS": [*APPS, "netstorage.staticfiles", "django.contrib.staticfiles"],
                "STATIC_URL": "/static/",
                "STATICFILES_DIRS": [self.source],
                "STATICFILES_FINDERS": ["django.contrib.staticfiles.finders.FileSystemFinder"],
                "STORAGES": {"staticfiles": backend},
                **settings,
            }
        )

    def collect(self, *arguments, command=Command, **options):
        """Run the command; return what it says."""
        said = io.StringIO()
        call_command(command(), *arguments, interactive=False, stdout=said, **options)
        return said.getvalue()

    def locally(self, folder, *arguments):
        """What Django's own command makes on a disk: names and contents."""
        with self.settings({"BACKEND": DJANGOS}, STATIC_ROOT=str(folder)):
            self.collect(*arguments, command=djangos.Command)
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def names_on(storage, folder=""):
    with suppress(FileNotFoundError):
        directories, files = storage.listdir(folder)
        yield from (f"{folder}{name}" for name in files)
        for name in directories:
            yield from names_on(storage, f"{folder}{name}/")


def tree(storage=staticfiles_storage):
    return {name: read(storage, name) for name in names_on(storage)}


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def deployed(site, server):
    """A site whose static files are on each server in turn; ended without left-overs."""
    with site.settings(options_of(server)):
        site.collect()
        yield site
        if server.name in LOCKING:
            remove_temporaries(server, staticfiles_storage)
        assert temporaries(server, staticfiles_storage) == []


@pytest.fixture
def sftp_site(site, any_sftp):
    """A site with an SFTP server, to which nothing was collected yet."""
    with site.settings(options_of(any_sftp)):
        yield site


def test_it_is_what_django_makes_on_a_disk(deployed, tmp_path):
    hashed_files = staticfiles_storage.hashed_files
    assert hashed_files == stands(staticfiles_storage)
    assert tree() == deployed.locally(tmp_path / "local")
    name = staticfiles_storage.stored_name("css/base.css")
    assert name != "css/base.css"
    assert staticfiles_storage.url("css/base.css") == f"/static/{name}"


def test_it_says_what_it_did(sftp_site):
    assert "6 static files copied, 6 post-processed." in sftp_site.collect()
    said = sftp_site.collect("-v2")
    assert "0 static files copied, 6 unmodified, 6 post-processed." in said
    assert "Skipping 'robots.txt' (not modified)" in said


def test_again_only_what_changed_is_sent(deployed, server, tmp_path):
    def sent(*arguments):
        said = deployed.collect("-v2", *arguments)
        return {line.split("'")[1] for line in said.splitlines() if line.startswith("Copied")}

    assert sent() == set()
    before = tree()
    deployed.write(**{"img/a.png": "another picture"})
    os.utime(deployed.source / "img/a.png", (time.time() + 60,) * 2)
    names = sent()
    local = deployed.locally(tmp_path / "local")
    # The picture, and what refers to it under names of their own; no other plain file.
    assert names == {"img/a.png"} | (local.keys() - before.keys())
    assert len(names) == 4
    assert tree() == before | local


def test_requests(site, server):
    """Borrowed sessions stand for operations: two for a file that is sent, one to compare."""
    files = {f"d{n % 5}/{n}.txt": f"{n}" for n in range(40)}
    with site.settings(options_of(server)):
        site.write(**files)
        pool = staticfiles_storage.pool

        def requests(*arguments):
            before = pool.stats().requests
            site.collect(*arguments)
            return pool.stats().requests - before

        count = len(files) + len(SOURCES)
        listings, manifest, threads = 10, 2, 2
        assert requests() <= 2 * 2 * count + 1 + manifest + threads
        assert requests() <= count + listings + manifest + threads
        assert requests("--no-post-process") <= count + listings + threads
        assert requests("--dry-run") <= count + listings + threads


def test_clear_removes_what_is_not_collected_and_nothing_before(deployed, tmp_path):
    staticfiles_storage.save("old/gone.txt", ContentFile(b"x"))
    staticfiles_storage.save("css/sub/gone.css", ContentFile(b"x"))
    (deployed.source / "robots.txt").unlink()
    deployed.collect("--clear")
    assert tree() == deployed.locally(tmp_path / "local")


def test_clear_refuses_a_reference_to_what_it_would_remove(deployed):
    """As with Django's command, which removes it first."""
    (deployed.source / "img/a.png").unlink()
    before = tree()
    for arguments in (["--clear"], ["--clear", "--dry-run"]):
        with pytest.raises((CommandError, ValueError), match="could not be found"):  # before 6.0
            deployed.collect(*arguments)
    assert tree() == before


def test_a_dry_run_tells_what_would_be_done(deployed):
    def told(*arguments):
        lines = deployed.collect("-v2", *arguments).splitlines()
        counts = lines[-1]
        sent = {line.split("'")[1] for line in lines if line.startswith(sending)}
        deleted = {line.split("'")[1] for line in lines if line.startswith(deleting)}
        return sent, deleted, counts

    staticfiles_storage.save("old/gone.txt", ContentFile(b"x"))
    (deployed.source / "robots.txt").unlink()
    deployed.write(**{"css/base.css": "body {}"})
    os.utime(deployed.source / "css/base.css", (time.time() + 60,) * 2)
    for arguments in ([], ["--clear"], ["--clear", "--no-post-process"]):
        before = tree()
        sending, deleting = "Pretending to copy", "Pretending to delete"
        pretended = told("--dry-run", *arguments)
        assert tree() == before
        sending, deleting = "Copied", "Deleted"
        assert told(*arguments) == pretended
        assert tree().keys() == before.keys() - pretended[1] | pretended[0]


def test_clear_heals_a_file(sftp_site):
    sftp_site.collect()
    name = staticfiles_storage.stored_name("robots.txt")
    staticfiles_storage.delete(name)
    staticfiles_storage.save(name, ContentFile(b"damaged"))
    sftp_site.collect()
    assert read(staticfiles_storage, name) == b"damaged"
    sftp_site.collect("--clear")
    assert read(staticfiles_storage, name) == b"all"


def test_without_post_processing(site, server):
    with site.settings(options_of(server)):
        assert "6 static files copied." in site.collect("--no-post-process")
        assert tree() == {name: text.encode() for name, text in SOURCES.items()}
        site.collect()
        assert MANIFEST in tree()
        # A manifest of files that go goes first.
        site.collect("--no-post-process", "--clear")
        assert tree() == {name: text.encode() for name, text in SOURCES.items()}


def test_a_dry_run_changes_nothing(sftp_site):
    said = sftp_site.collect("--dry-run")
    assert "6 static files copied" in said
    assert "Pretending to copy 'css/base.css'" in said
    assert tree() == {}
    sftp_site.collect()
    assert "0 static files copied, 6 unmodified" in sftp_site.collect("--dry-run")


def test_links_are_refused(sftp_site):
    with pytest.raises(CommandError, match="Can't symlink"):
        sftp_site.collect("--link")


def test_a_file_that_cannot_be_saved(deployed, server):
    """It is not reported as collected, and the old manifest stays."""
    before = tree()
    deployed.write(**{"new/a.txt": "a", "new/b.txt": "b", "css/base.css": "body {}"})
    # A file stands where a folder is needed.
    staticfiles_storage.save("new", ContentFile(b"in the way"))
    with pytest.raises(CommandError) as caught:
        deployed.collect()
    assert "new" in str(caught.value)
    assert read(staticfiles_storage, MANIFEST) == before[MANIFEST]
    assert before.items() - {("css/base.css", before["css/base.css"])} <= tree().items()


def test_a_failure_of_post_processing_sends_nothing(deployed):
    before = tree()
    deployed.write(**{"css/new.css": "a { background: url(nowhere.png) }"})
    with pytest.raises((CommandError, ValueError), match=r"nowhere\.png"):  # before 6.0
        deployed.collect()
    assert tree() == before


def test_a_reference_to_what_was_collected_before(sftp_site):
    """Django finds it on the server, too."""
    sftp_site.collect()
    (sftp_site.source / "img/a.png").unlink()
    before = staticfiles_storage.stored_name("css/sub/more.css")
    sftp_site.collect()
    assert staticfiles_storage.stored_name("css/sub/more.css") == before


def test_a_dead_server(site, any_sftp, any_webdav):
    for server, key in ((any_sftp, "port"), (any_webdav, "url")):
        dead = free_port() if key == "port" else f"http://127.0.0.1:{free_port()}/"
        backend = options_of(server, **{key: dead})
        with site.settings(backend), pytest.raises(CommandError, match=r"127\.0\.0\.1"):
            site.collect()


class Elsewhere(ManifestSFTPStorage):
    folder: Path

    def __init__(self, **options):
        super().__init__(manifest_storage=FileSystemStorage(self.folder), **options)


def test_a_manifest_elsewhere(site, any_sftp, tmp_path):
    Elsewhere.folder = tmp_path / "manifest"
    backend = options_of(any_sftp) | {"BACKEND": f"{__name__}.Elsewhere"}
    with site.settings(backend):
        for _ in range(2):
            site.collect()
            assert [path.name for path in Elsewhere.folder.iterdir()] == [MANIFEST]
            assert MANIFEST not in tree()
            assert json.loads((Elsewhere.folder / MANIFEST).read_text())["paths"].keys() == {
                *SOURCES
            }


def test_without_hashes(site, any_sftp):
    backend = options_of(any_sftp) | {"BACKEND": "netstorage.SFTPStorage"}
    with site.settings(backend):
        assert "6 static files copied." in site.collect()
        assert tree() == {name: text.encode() for name, text in SOURCES.items()}


def test_other_storages_are_served_by_djangos_command(site, tmp_path):
    with site.settings({"BACKEND": DJANGOS}, STATIC_ROOT=str(tmp_path / "root")):
        site.collect()
        site.collect("--clear")
    local = site.locally(tmp_path / "local")
    assert {path.name for path in (tmp_path / "root").rglob("*.*")} == {
        Path(name).name for name in local
    }


class TestTheStorage:
    def test_making_it_asks_nothing_of_the_server(self):
        storage = ManifestSFTPStorage(
            host="127.0.0.1", port=free_port(), host_key="SHA256:" + "x" * 43
        )
        with override_settings(STATIC_URL="/s/"):
            assert storage.base_url == "/s/"
            with override_settings(DEBUG=True):
                assert storage.url("a.css") == "/s/a.css"
        with pytest.raises(ConnectionError):
            storage.url("a.css")
        storage = ManifestWebDAVStorage(url="http://127.0.0.1:1/", base_url="https://cdn")
        assert storage.base_url == "https://cdn/"

    def test_the_manifest_is_read_once(self, sftp_site):
        sftp_site.collect()
        storage = type(staticfiles_storage._wrapped)(**staticfiles_storage._given)
        assert storage.manifest_hash == staticfiles_storage.manifest_hash
        before = storage.pool.stats().requests
        assert storage.url("robots.txt") == staticfiles_storage.url("robots.txt")
        assert storage.pool.stats().requests == before
        with pytest.raises(ValueError, match="Missing staticfiles manifest entry"):
            storage.url("nothing.txt")

    def test_without_a_manifest(self, sftp_site):
        assert staticfiles_storage.hashed_files == {}
        assert staticfiles_storage.manifest_hash == ""


def stands(storage):
    """The manifest on the server; all that it names must be there."""
    manifest = json.loads(read(storage, MANIFEST))["paths"]
    missing = {*manifest.values()} - {*names_on(storage)}
    assert not missing
    return manifest


def test_no_reader_sees_a_manifest_of_missing_files(deployed):
    """A reader that never pauses, while everything changes."""
    deployed.write(**{f"{n}/{n}.txt": f"{n}" for n in range(60)})
    deployed.collect()
    reader = type(staticfiles_storage._wrapped)(**staticfiles_storage._given)
    seen = [stands(reader)]
    end = threading.Event()
    failures = []

    def look():
        while not end.is_set():
            try:
                seen.append(stands(reader))
            except OSError:
                # On some servers a file that is replaced is missing for a moment (servers.md).
                continue
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for generation in "ab":
            deployed.write(**{f"{n}/{n}.txt": f"{n}{generation}" for n in range(60)})
            deployed.collect()
    finally:
        end.set()
        thread.join()
    assert failures == []
    assert len(seen) > 1


MANAGE = """
    import json, sys
    from django.conf import settings
    from django.core.management import execute_from_command_line

    settings.configure(**json.loads({settings!r}))
    execute_from_command_line(["manage.py", "collectstatic", "--noinput", "-v2"])
"""


@contextmanager
def manage(site, backend):
    """Django's command line, in a process of its own."""
    code = textwrap.dedent(MANAGE).format(
        settings=json.dumps(
            {
                "INSTALLED_APPS": ["netstorage.staticfiles", "django.contrib.staticfiles"],
                "STATIC_URL": "/static/",
                "STATICFILES_DIRS": [str(site.source)],
                "STORAGES": {"staticfiles": backend},
            }
        )
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        # What the killed one leaves is pytest's to remove.
        | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(site.source.parent),
        },
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("server", ["sshd", "embedded-webdav"], indirect=True)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_ended_in_the_middle(site, server, how):
    """The site goes on with what its manifest names; the next run brings the rest."""
    backend = options_of(server)
    with site.settings(backend):
        site.collect()
        before = stands(staticfiles_storage)
        site.write(**{f"{n % 10}/{n}.txt": f"{n}" for n in range(300)})
        with manage(site, backend) as process:
            for line in process.stdout:
                if line.startswith("Copied"):
                    break
            process.send_signal(how)
            said, _ = process.communicate(timeout=PATIENCE * 2)
        assert process.returncode in {-how, 130}, said
        assert stands(staticfiles_storage) == before
        if how == signal.SIGKILL or server.name in LOCKING:
            remove_temporaries(server, staticfiles_storage)
        assert temporaries(server, staticfiles_storage) == []
        with manage(site, backend) as process:
            said, _ = process.communicate(timeout=PATIENCE * 8)
        assert process.returncode == 0, said
        assert len(stands(staticfiles_storage)) == 300 + len(SOURCES)
