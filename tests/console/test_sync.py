"""``sync`` gives a directory what another one has, and touches nothing else."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage, storages
from django.core.management import CommandError
from django.test import override_settings

from netstorage.console import journal
from netstorage.console.content import Content
from netstorage.console.copying import Copier
from netstorage.console.journal import Journal
from netstorage.console.place import Place
from netstorage.storage import TEMPORARY
from tests.console.conftest import PATIENCE, over_sftp
from tests.contract.helpers import read

FEW_SERVERS = True

OTHERS = ["disk", "memory", "bucket", "nas2"]
LARGE = 3 * 2**20 + 1
THEN = 1_500_000_000
HIDDEN = f"{TEMPORARY}{'0' * 32}"


class Shifted(InMemoryStorage):
    """A storage whose clock is ahead of ours, or behind."""

    ahead = timedelta()

    def get_modified_time(self, name):
        return super().get_modified_time(name) + self.ahead


class Fat(FileSystemStorage):
    """A disk that knows every other second."""

    def get_modified_time(self, name):
        told = super().get_modified_time(name)
        return told.replace(second=told.second & ~1, microsecond=0)


class Guarded(FileSystemStorage):
    """A disk on which nothing can be made in the top directory, as in a chroot of sshd."""

    def save(self, name, content, max_length=None):
        if "/" not in name or name.startswith(TEMPORARY):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return super().save(name, content, max_length)


class Bad(InMemoryStorage):
    """A storage that says it stored what it did not, and refuses some names."""

    def _save(self, name, content):
        data = content.read()
        if "refused" in name:
            raise RuntimeError("no such luck")
        if "cut" in name:
            data = data[:-1]
        if "garbled" in name:
            data = data[::-1]
        return super()._save(name, ContentFile(data))

    def size(self, name):
        if "unsized" in name:
            raise RuntimeError("size unknown")
        return super().size(name)


@pytest.fixture
def local(tmp_path):
    """Storages that need no server."""
    places = {name: tmp_path / name for name in ("disk", "fat", "guarded")}
    backends = {
        "disk": "django.core.files.storage.FileSystemStorage",
        "memory": "django.core.files.storage.InMemoryStorage",
        "bucket": "tests.console.conftest.Bucket",
        "hostile": "tests.console.conftest.Hostile",
        **{x.__name__.lower(): f"{__name__}.{x.__name__}" for x in (Shifted, Fat, Guarded, Bad)},
    }
    entries = {
        name: {"BACKEND": backend, "OPTIONS": {"location": places[name]} if name in places else {}}
        for name, backend in backends.items()
    }
    with override_settings(STORAGES=entries):
        yield tmp_path / "disk"
        assert list(tmp_path.rglob(f"{TEMPORARY}*")) == []


@pytest.fixture
def disk(nas, tmp_path):
    """The folder behind ``disk:``, with files of three years in ``s``."""
    folder = tmp_path / "disk"
    for name, size in [
        ("a.txt", 3),
        ("empty", 0),
        ("in/ä b.txt", 7),
        ("in/deep/er/large.bin", LARGE),
        (f"in/{'long' * 50}", 1),
    ]:
        put(folder / "s" / name, os.urandom(size))
    return folder


def put(path: Path, content: bytes, mtime: float = THEN) -> None:
    """Write a file, with a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))


def files_below(folder: Path) -> dict[str, bytes]:
    """Each file with its content, hidden ones, too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def everything(folder: Path) -> dict[str, object]:
    """All that lies below: contents and times of files, and directories."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


def behind(server, storage) -> Path:
    """The folder of a storage on its server's disk."""
    return server.root / storage.location


def failures(run, *words) -> list[str]:
    """The lines of a sync that fails, but for their number."""
    with pytest.raises(CommandError) as caught:
        run("sync", *words)
    assert caught.value.returncode == 1
    lines = str(caught.value).splitlines()
    if len(lines) == 1:
        return lines
    assert lines[0] == f"{len(lines) - 1} were not {lines[0].split()[-1]}"
    return lines[1:]


def meanwhile(monkeypatch, what) -> None:
    """Let something happen once all is compared, just before a file is copied."""
    write = Copier._write

    def late(copier, difference, *args):
        what(difference.name)
        return write(copier, difference, *args)

    monkeypatch.setattr(Copier, "_write", late)


def test_from_a_disk_and_back(run, server, nas, disk):
    told = run("sync", "disk:s", "nas:t")
    assert told == "5 files (3.0 MiB) copied, 0 the same\n"
    assert files_below(behind(server, nas)) == {
        f"t/{name}": content for name, content in files_below(disk / "s").items()
    }
    assert run("sync", "disk:s", "nas:t") == "0 files (0 B) copied, 5 the same\n"
    assert run("sync", "nas:t", "disk:back") == told
    assert files_below(disk / "back") == files_below(disk / "s")
    assert run("sync", "nas:t", "disk:back") == "0 files (0 B) copied, 5 the same\n"


@pytest.mark.parametrize("other", OTHERS)
def test_from_storage_to_storage(run, server, nas, disk, other):
    """From the root of one to that of another, neither of which is there; and back."""
    if other != "disk":
        run("sync", "disk:s", f"{other}:")
    source, storages["disk"].__dict__["location"] = other, str(disk / "s")
    told = "5 files (3.0 MiB) copied, 0 the same\n"
    assert run("sync", f"{source}:", "nas:") == told
    assert files_below(behind(server, nas)) == files_below(disk / "s")
    # A file that is as young as its copy is taken for changed.
    assert " copied, " in run("sync", f"{source}:", "nas:")
    assert run("sync", "nas:", f"{other}:new/place") == told if other != "disk" else True
    assert read(storages[other], "in/ä b.txt") == (disk / "s/in/ä b.txt").read_bytes()


def test_times_are_kept_where_they_can_be(run, server, nas, disk):
    run("sync", "disk:s", "nas:t")
    then = (behind(server, nas) / "t/a.txt").stat().st_mtime
    assert (then == THEN) == (server.protocol == "sftp")
    run("sync", "nas:t", "disk:back")
    assert (disk / "back/a.txt").stat().st_mtime == int(then)
    run("sync", "disk:s", "disk:copy")
    assert (disk / "copy/a.txt").stat().st_mtime == THEN


@pytest.mark.parametrize("target", ["nas", "disk"])
def test_a_source_that_changed(run, server, nas, disk, target):
    """Its size is what it was."""
    if target == "disk" and server.name != "sshd":
        return  # once is enough
    keeps = target == "disk" or server.protocol == "sftp"
    (disk / "s/in/deep/er/large.bin").unlink()
    run("sync", "disk:s", f"{target}:t")
    put(disk / "s/a.txt", b"two", time.time())
    assert run("sync", "disk:s", f"{target}:t").startswith("1 file (3 B) copied")
    assert read(storages[target], "t/a.txt") == b"two"
    put(disk / "s/a.txt", b"old", THEN - 10)
    told = run("sync", "disk:s", f"{target}:t")
    assert told.startswith(f"{int(keeps)} file")
    assert read(storages[target], "t/a.txt") == (b"old" if keeps else b"two")


@pytest.mark.parametrize("target", ["nas", "disk"])
def test_a_source_that_changes_in_the_second_of_its_copy(run, server, nas, disk, target):
    # A second begins, so that all is within it.
    time.sleep(1 - time.time() % 1)
    (disk / "s/a.txt").write_bytes(b"one")
    run("sync", "disk:s", f"{target}:t")
    (disk / "s/a.txt").write_bytes(b"two")
    run("sync", "disk:s", f"{target}:t")
    assert read(storages[target], "t/a.txt") == b"two"


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_clocks_that_disagree(run, local, monkeypatch, hours):
    """What is unchanged is not copied again, what changed is, and --update sees who is newer."""
    monkeypatch.setattr(Shifted, "ahead", timedelta(hours=hours))
    put(local / "s/a", b"one", time.time() - 1000)
    run("sync", "disk:s", "shifted:")
    assert run("sync", "disk:s", "shifted:") == "0 files (0 B) copied, 1 the same\n"
    put(local / "s/a", b"two", time.time())
    run("sync", "disk:s", "shifted:")
    assert read(storages["shifted"], "a") == b"two"
    put(local / "s/a", b"longer", time.time() - 1000)
    told = run("sync", "disk:s", "shifted:", "--update")
    assert told == "0 files (0 B) copied, 0 the same, 1 newer in shifted:\n"
    put(local / "s/a", b"longer", time.time() + 1000)
    assert run("sync", "disk:s", "shifted:", "--update").startswith("1 file (6 B) copied")


def test_a_disk_that_keeps_every_other_second(run, local):
    put(local / "s/a", b"one", THEN + 1)
    put(local / "s/b", b"one", THEN)
    run("sync", "disk:s", "fat:")
    assert run("sync", "disk:s", "fat:") == "0 files (0 B) copied, 2 the same\n"
    put(local / "s/a", b"two", THEN - 10)
    assert run("sync", "disk:s", "fat:") == "1 file (3 B) copied, 1 the same\n"


def test_a_top_directory_that_takes_nothing(run, local, monkeypatch):
    """What the times tell is found out further below; there is no journal then."""
    monkeypatch.setattr(journal, "PAGE_FILES", 1)
    put(local / "s/in/a", b"one")
    assert run("sync", "disk:s", "guarded:") == "1 file (3 B) copied, 0 the same\n"
    put(local / "s/in/a", b"two", THEN - 10)
    assert run("sync", "disk:s", "guarded:") == "1 file (3 B) copied, 0 the same\n"


def test_what_is_the_same_in_a_directory_that_takes_nothing(run, local):
    """The copy has the second of its original, as SFTP tells times: there is nothing to fail."""
    put(local / "s/a", b"one", THEN + 0.5)
    put(local.parent / "guarded/a", b"one", THEN)
    assert run("sync", "disk:s", "guarded:") == "0 files (0 B) copied, 1 the same\n"


def test_sizes_and_checksums(run, nas, disk):
    run("sync", "disk:s", "nas:t")
    put(disk / "s/a.txt", b"longer")
    assert run("sync", "disk:s", "nas:t") == "1 file (6 B) copied, 4 the same\n"
    put(disk / "s/a.txt", b"LONGER")
    assert run("sync", "disk:s", "nas:t") == "0 files (0 B) copied, 5 the same\n"
    told = run("sync", "disk:s", "nas:t", "--checksum", "--dry-run")
    assert told == "replace nas:t/a.txt\n1 file would be copied, 4 the same\n"
    told = run("sync", "disk:s", "nas:t", "--checksum")
    assert told == "1 file (6 B) copied, 4 the same\n"
    assert read(nas, "t/a.txt") == b"LONGER"


def test_what_was_written_is_verified(run, local):
    for name in ("cut", "garbled", "good"):
        put(local / "s" / name, b"abc")
    (line,) = failures(run, "disk:s", "bad:t")
    assert line == "disk:s/cut -> bad:t/cut: has 2 of 3 bytes after it was written"
    lines = failures(run, "disk:s", "bad:t", "--checksum")
    assert sorted(lines) == [
        "disk:s/cut -> bad:t/cut: has 2 of 3 bytes after it was written",
        "disk:s/garbled -> bad:t/garbled: is not what was written",
    ]
    assert read(storages["bad"], "t/good") == b"abc"


def test_one_failure_does_not_end_the_others(run, local):
    """All are told, whatever a storage raises, and where."""
    for number in range(25):
        put(local / f"s/{number:02}.refused", b"x")
    put(local / "s/z/good", b"abc")
    put(local / "s/unsized", b"abc")
    storages["bad"].save("t/unsized", ContentFile(b""))
    lines = failures(run, "disk:s", "bad:t")
    assert len(lines) == 26
    assert "disk:s/unsized: size unknown" in lines
    assert sum(line.endswith(".refused: no such luck") for line in lines) == 25
    assert read(storages["bad"], "t/z/good") == b"abc"


def test_more_files_than_are_read_at_once_of_a_plan(run, local):
    for number in range(2000):
        put(local / f"s/{number:04}", b"x")
    told = run("sync", "disk:s", "memory:", "--dry-run").splitlines()
    assert told[:-1] == [f"copy    memory:{number:04}" for number in range(2000)]
    assert told[-1] == "2000 files would be copied, 0 the same"
    assert run("sync", "disk:s", "memory:") == "2000 files (2.0 KiB) copied, 0 the same\n"


def test_what_is_no_file_is_not_waited_for(run, local):
    put(local / "s/a", b"abc")
    os.mkfifo(local / "s/pipe")
    (line,) = failures(run, "disk:s", "memory:t")
    assert line == "disk:s/pipe -> memory:t/pipe: is no regular file"
    assert read(storages["memory"], "t/a") == b"abc"


def test_a_key_that_is_a_directory_s_name_is_told(run, local):
    """In a bucket both can be: what lies below it is not left out in silence."""
    storages["bucket"].blobs = {"a": b"key", "a/b": b"1", "c": b"2"}
    (line,) = failures(run, "bucket:", "disk:t", "--delete")
    assert line == "bucket:a: is a file, too; rename one of them"
    assert files_below(local / "t") == {"a": b"key", "c": b"2"}


@pytest.mark.parametrize("target", ["disk:t", "memory:t"])
def test_a_backslash_is_no_slash(run, local, target):
    """Django's storages take it for one when they save: that is another name, maybe another's."""
    put(local / "s/a\\b", b"one")
    put(local / "s/c\\d/e", b"two")
    if target == "memory:t":
        assert len(failures(run, "disk:s", target)) == 2
        storages["memory"].save("t/a/b", ContentFile(b"precious"))
        assert len(failures(run, "disk:s", target)) == 2
        assert storages["memory"].listdir("t/a") == ([], ["b"])
        assert storages["memory"].listdir("t/c/d") == ([], [])
        return
    (line,) = failures(run, "disk:s", target)
    assert line.startswith("disk:s/c\\d/e -> disk:t/c\\d/e: the storage would have saved it as")
    assert files_below(local / "t") == {"a\\b": b"one"}


def test_a_listing_that_leads_elsewhere(run, local, tmp_path):
    (line,) = failures(run, "hostile:", "disk:t", "--delete")
    assert line == "hostile: -> disk:t: the name '../../escaped.txt' leads elsewhere"
    assert not list(tmp_path.rglob("escaped*"))


def test_update_keeps_what_is_newer(run, server, nas, disk):
    nas.save("t/a.txt", ContentFile(b"newer"))
    nas.save("t/empty", ContentFile(b"older"))
    os.utime(behind(server, nas) / "t/empty", (THEN - 10, THEN - 10))
    told = run("sync", "disk:s", "nas:t", "--update")
    assert told == "4 files (3.0 MiB) copied, 0 the same, 1 newer in nas:t\n"
    assert read(nas, "t/a.txt") == b"newer"
    assert read(nas, "t/empty") == b""
    run("sync", "disk:s", "nas:t")
    assert read(nas, "t/a.txt") == (disk / "s/a.txt").read_bytes()


@pytest.mark.parametrize("target", ["nas", "disk", "memory", "bucket"])
def test_delete(run, server, nas, disk, target):
    """Files and directories that the source lacks; nothing hidden, and nothing else."""
    if target != "nas" and server.name != "sshd":
        return
    storage = storages[target]
    for name in ("a.txt", "extra", "in/extra", "gone/x", "gone/in/y", "in/gone/z"):
        storage.save(f"t/{name}", ContentFile(b"extra"))
    storage.save("kept", ContentFile(b"kept"))
    storage.save(f"t/{HIDDEN}", ContentFile(b"an upload under way"))
    told = run("sync", "disk:s", f"{target}:t", "--delete", "--dry-run")
    assert {x for x in told.splitlines() if x.startswith("remove")} == {
        f"remove  {target}:t/{name}"
        for name in ("extra", "in/extra", "gone/x", "gone/in/y", "in/gone/z", "gone/", "in/gone/")
    }
    assert told.endswith("5 files would be copied, 5 would be removed, 0 the same\n")
    told = run("sync", "disk:s", f"{target}:t", "--delete")
    assert told == "5 files (3.0 MiB) copied, 5 removed, 0 the same\n"
    assert read(storage, f"t/{HIDDEN}") == b"an upload under way"
    storage.delete(f"t/{HIDDEN}")
    directories, files = storage.listdir("t")
    assert (directories, sorted(files)) == (["in"], ["a.txt", "empty"])
    assert storage.listdir("t/in")[0] == ["deep"]
    assert read(storage, "kept") == b"kept"


def test_nothing_is_deleted_if_something_failed(run, server, nas, disk, capsys):
    nas.save("t/extra", ContentFile(b"extra"))
    os.mkfifo(disk / "s/pipe")
    (line,) = failures(run, "disk:s", "nas:t", "--delete")
    assert line == "disk:s/pipe -> nas:t/pipe: is no regular file"
    said = capsys.readouterr().err
    assert said == "Nothing was removed from nas:t, as not all was copied.\n"
    assert read(nas, "t/extra") == b"extra"
    assert read(nas, "t/a.txt") == (disk / "s/a.txt").read_bytes()


def test_what_cannot_be_deleted_is_told(run, local, monkeypatch):
    """The others are gone, all was copied, and there is no journal left."""
    for number in range(25):
        put(local / f"t/{number:02}.stuck", b"x")
    put(local / "t/loose", b"x")
    put(local / "s/a", b"abc")
    delete = FileSystemStorage.delete

    def stuck(storage, name):
        if name.endswith(".stuck"):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        delete(storage, name)

    monkeypatch.setattr(FileSystemStorage, "delete", stuck)
    monkeypatch.setattr(journal, "PAGE_FILES", 1)
    lines = failures(run, "disk:s", "disk:t", "--delete")
    assert sorted(lines) == [f"disk:t/{x:02}.stuck: Permission denied" for x in range(25)]
    assert not (local / "t/loose").exists()


def test_sources_that_are_none(run, local):
    """A disk that is not mounted must not empty its copy."""
    put(local / "t/precious", b"x")
    put(local / "file", b"x")
    (local / "empty/dir").mkdir(parents=True)
    for source, reason in [
        ("disk:empty", r"^disk:empty has no files: --delete would remove all 1 of disk:t\."),
        ("disk:missing", r"^disk:missing: No such file or directory$"),
        ("bucket:missing", r"^bucket:missing: No such file or directory$"),
        ("disk:file", r"^disk:file: is a file; `cp` copies single files$"),
        ("disk:t", r"^disk:t and disk:t lie in one another"),
        ("disk:", r"^disk: and disk:t lie in one another"),
    ]:
        with pytest.raises(CommandError, match=reason):
            run("sync", source, "disk:t", "--delete")
    with pytest.raises(CommandError, match=r"^disk:file: is a file$"):
        run("sync", "disk:t", "disk:file")
    assert run("sync", "disk:empty", "disk:t") == "0 files (0 B) copied, 0 the same\n"
    assert (local / "t/precious").exists()


def test_a_dry_run_changes_nothing(run, server, nas, disk):
    """It tells what a real run then does."""
    nas.save("t/a.txt", ContentFile(b"another"))
    nas.save("t/in/extra", ContentFile(b"extra"))
    nas.save("t/empty", ContentFile(b""))
    before = everything(behind(server, nas)), everything(disk)
    for target in ("nas:t", "frozen:t", "nas:new"):
        told = run("sync", "disk:s", target, "--delete", "--dry-run").splitlines()
        assert (everything(behind(server, nas)), everything(disk)) == before
        if target == "nas:t":
            first = told
    keeps = server.protocol == "sftp"
    assert sorted(first[:-1]) == sorted(
        [
            f"copy    nas:t/in/{'long' * 50}",
            "copy    nas:t/in/deep/er/large.bin",
            "copy    nas:t/in/ä b.txt",
            "remove  nas:t/in/extra",
            "replace nas:t/a.txt",
            *["replace nas:t/empty"] * keeps,
        ]
    )
    told = run("sync", "disk:s", "nas:t", "--delete")
    assert told.strip().split(",")[1:] == first[-1].replace("would be ", "").split(",")[1:]
    assert told.split()[0] == first[-1].split()[0]
    lines = failures(run, "disk:s", "frozen:new", "--delete")
    assert len(lines) == 5
    assert all("read-only" in line for line in lines)


def test_a_file_and_a_directory_of_one_name(run, server, nas, disk):
    nas.save("t/a.txt/x", ContentFile(b"x"))
    nas.save("t/in/deep", ContentFile(b"deep"))
    before = {k: v for k, v in everything(behind(server, nas)).items() if v}
    lines = failures(run, "disk:s", "nas:t", "--delete")
    assert sorted(lines) == [
        "disk:s/a.txt: nas:t/a.txt is a directory",
        "disk:s/in/deep: nas:t/in/deep is a file",
    ]
    after = everything(behind(server, nas))
    assert {name: after[name] for name in before} == before
    assert read(nas, "t/in/ä b.txt") == (disk / "s/in/ä b.txt").read_bytes()


@over_sftp
@pytest.mark.parametrize("target", ["nas", "disk"])
def test_links_in_the_target(run, server, nas, disk, target):
    """Nothing is written through one, and none is followed to remove anything."""
    root = behind(server, nas) if target == "nas" else disk
    put(root / "precious/x", b"precious")
    put(root / "t/kept", b"kept")
    (root / "t/a.txt").symlink_to("../precious/x")
    (root / "t/empty").symlink_to("../nowhere")
    (root / "t/in").symlink_to("../precious")
    lines = failures(run, "disk:s", f"{target}:t", "--delete")
    assert lines == [f"disk:s/in: {target}:t/in is a symbolic link to a directory"]
    assert not (root / "t/a.txt").is_symlink()
    assert not (root / "t/empty").is_symlink()
    (root / "t/in").unlink()
    for name, leads in [("dir", "precious"), ("file", "precious/x"), ("no", "nowhere")]:
        (root / "t" / name).symlink_to(f"../{leads}")
    told = run("sync", "disk:s", f"{target}:t", "--delete")
    assert told == "3 files (3.0 MiB) copied, 4 removed, 2 the same\n"
    assert files_below(root / "t") == files_below(disk / "s")
    assert files_below(root / "precious") == {"x": b"precious"}
    assert not (root / "nowhere").exists()


@over_sftp
@pytest.mark.parametrize("source", ["nas", "disk"])
def test_links_in_the_source(run, server, nas, disk, source):
    """One to a file stands for that; the others are told."""
    root = behind(server, nas) if source == "nas" else disk
    put(root / "other/x", b"content")
    (root / "from").mkdir()
    for name, leads in [("dir", "other"), ("file", "other/x"), ("no", "nowhere")]:
        (root / "from" / name).symlink_to(f"../{leads}")
    lines = failures(run, f"{source}:from", "disk:to")
    lines.sort()
    assert lines[0] == f"{source}:from/dir: is a symbolic link to a directory"
    assert lines[1].startswith(f"{source}:from/no: No such file or directory")
    assert len(lines) == 2
    assert files_below(disk / "to") == {"file": b"content"}
    assert not (disk / "to/file").is_symlink()


@over_sftp
def test_names_that_are_no_text(run, server, nas, disk):
    name = os.fsdecode(b"caf\xe9\n.txt")
    put(disk / "s" / name, b"x")
    run("sync", "disk:s", "nas:t")
    told = run("sync", "nas:t", "disk:back", "--dry-run")
    assert "copy    disk:back/caf\ufffd\ufffd.txt\n" in told
    run("sync", "nas:t", "disk:back")
    assert (disk / "back" / name).read_bytes() == b"x"
    assert run("sync", "disk:s", "nas:t", "--checksum") == "0 files (0 B) copied, 6 the same\n"


@pytest.mark.parametrize("is_equal", [True, False])
def test_what_came_to_be_meanwhile_stays(run, nas, disk, monkeypatch, is_equal):
    """Equal content, such as another sync's, is no failure."""
    content = (disk / "s/a.txt").read_bytes() if is_equal else b"another's"

    def come(name):
        if name == "a.txt":
            nas.save("t/a.txt", ContentFile(content))

    meanwhile(monkeypatch, come)
    if is_equal:
        told = run("sync", "disk:s", "nas:t")
        assert told == "4 files (3.0 MiB) copied, 1 the same\n"
    else:
        (line,) = failures(run, "disk:s", "nas:t")
        assert "nas:t/a.txt: came to be in the meantime; run sync again" in line
    assert read(nas, "t/a.txt") == content


@pytest.mark.parametrize("source", ["nas", "disk"])
def test_what_is_gone_meanwhile_is_no_failure(run, nas, disk, monkeypatch, source):
    run("sync", "disk:s", "nas:s")
    meanwhile(monkeypatch, lambda name: storages[source].delete("s/a.txt"))
    told = run("sync", f"{source}:s", "disk:t", "--jobs", "1")
    assert told == "4 files (3.0 MiB) copied, 0 the same, 1 gone in the meantime\n"
    assert not (disk / "t/a.txt").exists()


@pytest.mark.parametrize("source", ["nas", "disk"])
def test_what_changes_while_it_is_read(run, server, nas, disk, monkeypatch, source):
    """It is not published, over SFTP and WebDAV as on disk, and the others are."""
    run("sync", "disk:s", "nas:s")
    root = behind(server, nas) if source == "nas" else disk
    passed = Content._pass
    once = threading.Lock()

    def changing(content, count):
        if count > 2**12 and once.acquire(blocking=False):
            with (root / "s/in/deep/er/large.bin").open("ab") as file:
                file.write(b"more")
        passed(content, count)

    monkeypatch.setattr(Content, "_pass", changing)
    target = "disk" if source == "nas" else "nas"
    (line,) = failures(run, f"{source}:s", f"{target}:t")
    assert line.startswith(f"{source}:s/in/deep/er/large.bin -> {target}:t/in/deep/er/large.bin: ")
    assert "changed" in line
    assert not storages[target].exists("t/in/deep/er/large.bin")
    assert storages[target].exists("t/a.txt")
    run("sync", f"{source}:s", f"{target}:t")
    assert read(storages[target], "t/in/deep/er/large.bin").endswith(b"more")


@pytest.fixture
def killed(monkeypatch, run, server, nas, disk):
    """What a sync leaves that was killed when it had done all: the pages of its journal."""
    with monkeypatch.context() as patch:
        patch.setattr(journal, "PAGE_FILES", 1)
        patch.setattr(Journal, "remove", lambda journal: None)
        run("sync", "disk:s", "nas:t", "--checksum")
    (folder,) = (behind(server, nas) / "t").glob(f"{TEMPORARY}*")
    content = (disk / "s/a.txt").read_bytes()
    put(disk / "s/a.txt", bytes(255 - x for x in content))
    return folder


def test_a_journal_tells_what_was_done(run, nas, killed):
    """That is not read again, which shows in what nobody else could know; then it is gone."""
    assert len(list(killed.iterdir())) == 5
    told = run("sync", "disk:s", "nas:t", "--checksum", "--dry-run")
    assert told == "0 files would be copied, 5 the same\n"
    assert killed.exists()
    told = run("sync", "disk:s", "nas:t", "--checksum")
    assert told == "0 files (0 B) copied, 5 the same\n"
    assert not killed.exists()
    told = run("sync", "disk:s", "nas:t", "--checksum")
    assert told == "1 file (3 B) copied, 4 the same\n"


def test_what_a_journal_does_not_tell(run, nas, killed, disk):
    """Of another version of a file, of one that is gone since, or without --checksum."""
    put(disk / "s/in/ä b.txt", b"another")
    nas.delete("t/empty")
    nas.save("t/in/deep/other", ContentFile(b"extra"))
    told = run("sync", "disk:s", "nas:t", "--checksum", "--delete")
    assert told == "1 file (0 B) copied, 1 removed, 4 the same\n"


@pytest.mark.parametrize("days", [-2, 2])
def test_an_old_journal_tells_nothing(run, nas, killed, days):
    for page in killed.iterdir():
        told = json.loads(page.read_bytes())
        page.write_text(json.dumps({**told, "time": told["time"] - days * 86_400}))
    told = run("sync", "disk:s", "nas:t", "--checksum")
    assert told == "1 file (3 B) copied, 4 the same\n"
    assert not killed.exists()


def test_a_broken_journal_is_passed_over(run, server, nas, killed):
    """Such as a page of another sync that is under way, or what somebody else put there."""
    pages = sorted(killed.iterdir())
    broken = [b"", b'{"done": 5}', b'{"another": 1}', b"\xff\x00", b'[["time"]]']
    for page, content in zip(pages, broken, strict=True):
        page.write_bytes(content)
    told = run("sync", "disk:s", "nas:t", "--checksum")
    assert told == "1 file (3 B) copied, 4 the same\n"
    assert not killed.exists()


def test_a_journal_whose_name_is_taken(run, nas, killed, monkeypatch):
    for page in killed.iterdir():
        page.unlink()
    killed.rmdir()
    killed.write_bytes(b"a file")
    monkeypatch.setattr(journal, "PAGE_FILES", 1)
    told = run("sync", "disk:s", "nas:t", "--checksum")
    assert told == "1 file (3 B) copied, 4 the same\n"
    killed.unlink(missing_ok=True)


def test_jobs(run, server, nas, disk, monkeypatch):
    """As many as were asked for, but no more than the sessions carry: nobody waits for one."""
    options = {**nas.options, "pool": {"max_size": 2}, "timeout": 29.25}
    options = {key: value for key, value in options.items() if key in server.options}
    options |= {"location": nas.location, "pool": {"max_size": 2}, "timeout": 29.25}
    entry = {**settings.STORAGES["nas"], "OPTIONS": options}
    for number in range(100):
        put(disk / f"many/{number}", b"x")
    lock, under_way, most = threading.Lock(), 0, 0
    wanted, reached = 0, threading.Event()
    write = Place.write

    def counted(place, *args, **kwargs):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            if most >= wanted:
                reached.set()
        # The first wait until so many are there; should there be more, they come now.
        assert reached.wait(PATIENCE)
        time.sleep(0.01)
        try:
            write(place, *args, **kwargs)
        finally:
            with lock:
                under_way -= 1

    monkeypatch.setattr(Place, "write", counted)
    with override_settings(STORAGES={**settings.STORAGES, "small": entry}):
        for asked, carried in [("1", 1), ("64", 32 if server.protocol == "sftp" else 2)]:
            most, wanted = 0, carried
            reached.clear()
            run("sync", "disk:many", f"small:{asked}", "--jobs", asked)
            assert most == carried
    most, wanted = 0, 20
    reached.clear()
    run("sync", "disk:many", "memory:", "--jobs", "20")
    assert most == 20
    for wrong in ("0", "-1", "x", "1001"):
        with pytest.raises(CommandError, match="is no number from 1 to 1000"):
            run("sync", "disk:many", "memory:", "--jobs", wrong)


def test_what_new_small_files_cost(run, server, nas, told):
    """Once the server is known; the comparison has seen that their names are free."""
    storages["disk"].save("s/first", ContentFile(b"1"))
    run("sync", "disk:s", "nas:t")
    told.spans()
    for number in range(5):
        storages["disk"].save(f"s/{number}", ContentFile(bytes(777)))
    run("sync", "disk:s", "nas:t", "--jobs", "1")  # on the session that is there
    spans = told.spans()
    copies = [x.attributes for x in spans if x.attributes["netstorage.bytes_sent"] == 777]
    trips = {"sftp": 3, "webdav": 2}[server.protocol]
    assert [each["netstorage.round_trips"] for each in copies] == [trips] * 5
    assert sum(x.name == "netstorage exists" for x in spans) < 5
