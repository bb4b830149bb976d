"""``orphans`` finds files that no row has and rows without files, and deletes no file in use."""

from __future__ import annotations

import io
import os
import time
import tracemalloc
import unicodedata
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage, default_storage, storages
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import override_settings

from netstorage.console import orphans as module
from netstorage.console.rows import Column
from netstorage.storage import NetworkStorage
from tests.console.conftest import Bucket, over_sftp
from tests.console.gallery.models import Elsewhere, Enclosure, Favourite, Letter, Panorama, Photo
from tests.contract.helpers import OLD, grow_old
from tests.contract.test_leftovers import hidden, put

FEW_SERVERS = True

MODELS = Photo, Panorama, Letter, Enclosure, Elsewhere


class Timed(Bucket):
    """A bucket with times, and perhaps with a root of its own."""

    def __init__(self, location="", bucket_name="files"):
        super().__init__()
        self.location, self.bucket_name = location, bucket_name

    def get_modified_time(self, name):
        from django.utils import timezone

        return timezone.now() - OLD


class AnyCase(Timed):
    """A storage that takes A for a, and composed characters for others, as on macOS."""

    def exists(self, name):
        return any(same(name) == same(each) for each in self.blobs)


def same(name):
    return unicodedata.normalize("NFD", name).casefold()


@pytest.fixture
def use(monkeypatch):
    """Make a storage that of all fields."""

    def use(storage):
        for model in MODELS:
            for field in model._meta.get_fields():
                if hasattr(field, "storage"):
                    monkeypatch.setattr(field, "storage", storage)
        return storage

    return use


@pytest.fixture
def elsewhere(monkeypatch):
    """Give the one field of Elsewhere another storage."""
    return lambda storage: monkeypatch.setattr(Elsewhere.file.field, "storage", storage)


@pytest.fixture
def gallery(nas, use, db):
    """The storage that the gallery's fields use."""
    return use(nas)


@pytest.fixture
def old(server):
    """Save files, which changed last three days ago."""

    def old(storage, *names, size=1):
        for name in names:
            assert storage.save(name, ContentFile(bytes(size))) == name
            if isinstance(storage, NetworkStorage):
                grow_old(server, storage, name)
            elif isinstance(storage, FileSystemStorage):
                then = time.time() - OLD.total_seconds()
                os.utime(storage.path(name), (then, then))

    return old


@pytest.fixture
def look():
    """Run the subcommand; return its status and its lines."""

    def look(alias, *words):
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        status = 0
        try:
            call_command("netstorage", "orphans", alias, *words, stdout=out)
        except SystemExit as end:
            status = end.code
        out.flush()
        return status, out.buffer.getvalue().decode().splitlines()

    return look


NOTHING = (0, ["0 orphans (0 B), 0 rows without their files"])
NOTHING_DELETED = (0, ["0 orphans deleted (0 B), 0 rows without their files"])


def refused(look, *words):
    """Run what must not be done; return why."""
    with pytest.raises(CommandError) as caught:
        look(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_they_are_shown_then_deleted(look, gallery, old):
    old(gallery, "kept.jpg", "2025/old.jpg", "2025/a/b/ü.jpg", size=2000)
    Photo.objects.create(image="kept.jpg")
    shown = ["nas:2025/a/b/ü.jpg  2.0 KiB  3 d", "nas:2025/old.jpg  2.0 KiB  3 d"]
    told = "(3.9 KiB), 0 rows without their files"
    assert look("nas") == (1, [*shown, f"2 orphans {told}"])
    assert gallery.exists("2025/old.jpg")
    assert look("nas", "--delete") == (0, [*shown, f"2 orphans deleted {told}"])
    assert gallery.listdir("") == (["2025"], ["kept.jpg"])
    assert gallery.listdir("2025/a/b") == ([], [])
    assert look("nas") == NOTHING


def test_the_young_are_passed_over(look, gallery, old):
    """A file is saved before its row is committed."""
    old(gallery, "kept.jpg", "old.jpg")
    gallery.save("new.jpg", ContentFile(b"x"))
    Photo.objects.create(image="kept.jpg")
    for words in (["nas"], ["nas", "--delete"]):
        assert look(*words)[1][:2] == ["nas:old.jpg  1 B  3 d", "passed over: 1 younger"]
    assert gallery.listdir("")[1] == ["kept.jpg", "new.jpg"]
    assert look("nas", "--delete", "--older-than", "1h")[1][0] == "passed over: 1 younger"
    assert gallery.exists("new.jpg")


def test_age_is_by_the_clock_of_the_server(look, gallery, old, monkeypatch):
    """This machine's clock is a week ahead: to it, all that is on the server is old."""
    old(gallery, "kept.jpg")
    gallery.save("new.jpg", ContentFile(b"x"))
    Photo.objects.create(image="kept.jpg")
    ahead = time.time() + timedelta(weeks=1).total_seconds()
    monkeypatch.setattr(module.time, "time", lambda: ahead)
    look("nas", "--delete")
    assert gallery.exists("new.jpg")


def test_rows_without_their_files(look, gallery, old):
    """They are told, and stay as they are."""
    old(gallery, "kept.jpg")
    for names in ({"image": "kept.jpg", "raw": "a/b.raw"}, {"raw": "a/b.raw"}, {"image": None}, {}):
        photo = Photo.objects.create(**names)
    key = photo.pk
    letter = Letter.objects.create(file="../a\tb")
    rows = [
        f"gallery.Letter {letter.pk} file ../a\N{REPLACEMENT CHARACTER}b: the file is missing",
        f"gallery.Photo {key - 3} raw a/b.raw: the file is missing",
        f"gallery.Photo {key - 2} raw a/b.raw: the file is missing",
    ]
    assert look("nas") == (1, [*rows, "0 orphans (0 B), 3 rows without their files"])
    Letter.objects.all().delete()
    Photo.objects.filter(pk=key - 2).delete()
    told = "0 orphans deleted (0 B), 1 row without its file"
    assert look("nas", "--delete") == (1, [rows[1], told])
    assert Photo.objects.get(pk=key - 3).raw.name == "a/b.raw"


def test_every_kind_of_model_and_field(look, gallery, old):
    """Rows that managers hide; children, whose parent's file counts once; proxies; in between."""
    names = [f"{letter}.jpg" for letter in "abcdefg"]
    old(gallery, *names)
    Photo.objects.create(image="a.jpg", raw="b.jpg", is_deleted=True)
    Panorama.objects.create(image="c.jpg", wide="d.jpg")
    photo = Favourite.objects.create(image="e.jpg")
    letter = Letter.objects.create(file="f.jpg")
    Enclosure.objects.create(letter=letter, photo=photo, file="g.jpg")
    assert look("nas", "--delete") == NOTHING_DELETED
    for name in names:
        gallery.delete(name)
    told = look("nas")[1]
    assert len(told) == 8
    assert told[-1].endswith("7 rows without their files")


def test_models_that_django_does_not_manage(look, gallery, old, monkeypatch):
    old(gallery, "a.jpg", "b.jpg")
    monkeypatch.setattr(Letter._meta, "managed", False)
    Letter.objects.create(file="a.jpg")
    assert look("nas", "--delete")[1][0].startswith("nas:b.jpg")
    assert gallery.exists("a.jpg")


def test_names_are_compared_as_the_storage_reads_them(look, gallery, old):
    old(gallery, "dir/a.jpg", "dir/ü b.jpg", "a%20c&d'.jpg")
    for name in ("./dir//a.jpg", "dir/../dir/ü b.jpg", "a%20c&d'.jpg"):
        Photo.objects.create(image=name)
    assert look("nas", "--delete") == NOTHING_DELETED


@pytest.mark.parametrize("alias", ["nas", "disk", "memory", "timed"])
def test_every_kind_of_storage(look, gallery, use, old, alias):
    aliases = settings.STORAGES | {"timed": {"BACKEND": f"{__name__}.Timed"}}
    with override_settings(STORAGES=aliases):
        storage = use(storages[alias])
        old(storage, "a/kept", "a/b/orphan", "orphan")
        Photo.objects.create(image="a/kept")
        Photo.objects.create(image="a/missing")
        status, lines = look(alias, "--older-than", "1h")
        assert status == 1
        assert ": the file is missing" in lines[0]
        if alias == "memory":  # it has no way to make a file old
            assert lines[1] == "passed over: 2 younger"
            return
        assert [line.split()[0] for line in lines[1:3]] == [
            f"{alias}:a/b/orphan",
            f"{alias}:orphan",
        ]
        assert look(alias, "--delete")[1][1:3] == lines[1:3]
        assert storage.listdir("") == (["a"], [])
        assert storage.exists("a/kept")


# What is in use by another way


def alike(storage, location):
    """Another object for what is below a storage's location, or above it."""
    if isinstance(storage, FileSystemStorage):
        return FileSystemStorage(Path(storage.location) / location)
    options = {**storage.options, "location": os.path.normpath(f"{storage.location}/{location}")}
    return type(storage)(**options)


@pytest.mark.parametrize("alias", ["nas", "disk"])
@pytest.mark.parametrize(
    ("location", "name"),
    [(".", "private/a.jpg"), ("private", "a.jpg"), ("..", "{here}/private/a.jpg")],
    ids=["same", "below", "above"],
)
def test_a_field_whose_storage_has_the_same_files(
    look, gallery, use, elsewhere, old, alias, location, name
):
    """A storage made by hand, with the same root or another one, is known by where it is."""
    storage = use(storages[alias])
    old(storage, "kept.jpg", "private/a.jpg", "private/orphan.jpg")
    Photo.objects.create(image="kept.jpg")
    elsewhere(alike(storage, location))
    Elsewhere.objects.create(file=name.format(here=Path(storage.location).name))
    told = look(alias, "--delete")[1]
    assert told[0].startswith(f"{alias}:private/orphan.jpg")
    assert told[1:] == ["1 orphan deleted (1 B), 0 rows without their files"]
    assert storage.exists("private/a.jpg")


def test_default_storage_is_known(look, gallery, use, elsewhere, old):
    aliases = settings.STORAGES | {"default": settings.STORAGES["nas"]}
    with override_settings(STORAGES=aliases):
        use(default_storage)
        old(storages["nas"], "kept.jpg", "orphan.jpg")
        Photo.objects.create(image="kept.jpg")
        for alias in ("default", "nas"):
            assert look(alias)[1][0].startswith(f"{alias}:orphan.jpg")
    use(Timed())
    with override_settings(STORAGES={"default": {"BACKEND": f"{__name__}.Timed"}}):
        use(default_storage)
        default_storage.save("kept.jpg", ContentFile(b"x"))
        default_storage.save("orphan.jpg", ContentFile(b"x"))
        assert look("default", "--delete")[1][0].startswith("default:orphan.jpg")


def test_a_storage_made_by_hand_with_the_same_arguments(look, nas, use, elsewhere, db):
    """As far as @deconstructible storages tell their arguments."""
    use(InMemoryStorage())
    storages["memory"].save("a", ContentFile(b"x"))
    Photo.objects.create(image="b")
    assert look("memory")[1][0].endswith("image b: the file is missing")


@pytest.mark.parametrize("name", ["private/a.jpg", "media/Private/a.jpg", "a.jpg"])
def test_a_field_whose_storage_may_have_the_same_files(look, gallery, elsewhere, old, name):
    """Another account, or a mounted disk, may show them under a longer or a shorter name."""
    old(gallery, "kept.jpg", "private/a.jpg", "private/b.jpg")
    Photo.objects.create(image="kept.jpg")
    elsewhere(Timed())
    Elsewhere.objects.create(file=name)
    assert look("nas", "--delete")[1] == [
        "nas:private/b.jpg  1 B  3 d",
        "passed over: 1 with a name that a row may mean",
        "1 orphan deleted (1 B), 0 rows without their files",
    ]
    assert gallery.exists("private/a.jpg")


def test_a_root_below_that_of_another_account(look, gallery, elsewhere, old):
    """What is called a.jpg here may be another's private/a.jpg."""
    old(gallery, "kept.jpg", "a.jpg")
    Photo.objects.create(image="kept.jpg")
    elsewhere(Timed())
    Elsewhere.objects.create(file="private/a.jpg")
    look("nas", "--delete")
    assert gallery.exists("a.jpg")


def test_names_that_a_server_takes_for_one(look, nas, use, db):
    """Rows and listing differ in case or composition, and all files are in use."""
    with override_settings(STORAGES={"mac": {"BACKEND": f"{__name__}.AnyCase"}}):
        storage = use(storages["mac"])
        for name in ("kept", "IMG.JPG", unicodedata.normalize("NFD", "dir/ü.jpg"), "orphan"):
            storage.save(name, ContentFile(b"x"))
        for name in ("kept", "img.jpg", "Dir/\xfc.jpg"):
            Photo.objects.create(image=name)
        status, lines = look("mac", "--delete")
        assert status == 0
        assert [line.split()[0] for line in lines[:2]] == ["mac:orphan", "passed"]
        assert len(storage.blobs) == 3


def test_a_file_that_was_moved_stays(look, gallery, old):
    """A row lacks its file, and one of that name lies elsewhere: it may be the only copy."""
    old(gallery, "kept.jpg", "moved/a.jpg", "b.jpg")
    Photo.objects.create(image="kept.jpg", raw="a.jpg")
    status, lines = look("nas", "--delete")
    assert status == 1
    assert lines[1].startswith("nas:b.jpg")
    assert gallery.exists("moved/a.jpg")


@over_sftp
@pytest.mark.parametrize("alias", ["nas", "disk"])
def test_symbolic_links(look, server, gallery, use, old, alias):
    """Nobody tells where they lead; those to directories are not followed."""
    storage = use(storages[alias])
    old(storage, "kept.jpg", "2026/a.jpg", "2026/b.jpg")
    root = Path(storage.location) if alias == "disk" else server.root / storage.location
    (root / "latest").symlink_to(root / "2026")
    Photo.objects.create(image="kept.jpg", raw="latest/a.jpg")
    lines = look(alias, "--delete")[1]
    assert [line.split()[0] for line in lines[:2]] == [f"{alias}:2026/b.jpg", "passed"]
    assert storage.exists("2026/a.jpg")
    old(storage, "c.jpg")
    (root / "link.jpg").symlink_to(root / "c.jpg")
    Photo.objects.create(image="link.jpg")
    assert refused(look, alias, "--delete").startswith(f"{alias}:link.jpg is a symbolic link")
    assert storage.exists("c.jpg")
    (root / "link.jpg").unlink()
    (root / "latest").unlink()


# What belongs to others


def test_directories_of_other_aliases_are_their_matter(look, gallery, old):
    location = gallery.options["location"]
    below = {
        alias: {
            **settings.STORAGES["nas"],
            "OPTIONS": {**settings.STORAGES["nas"]["OPTIONS"], "location": f"{location}/{alias}"},
        }
        for alias in ("staticfiles", "backups")
    }
    with override_settings(STORAGES={**settings.STORAGES, **below}):
        old(gallery, "kept.jpg", "staticfiles/a.css", "backups/in/db.sql", "orphan")
        Photo.objects.create(image="kept.jpg")
        assert look("nas", "--delete")[1][0].startswith("nas:orphan")
        assert look("nas") == NOTHING
        assert gallery.exists("staticfiles/a.css")
        assert gallery.exists("backups/in/db.sql")
        assert "No FileField uses the storage 'backups'" in refused(look, "backups", "--delete")
        assert "static files" in refused(look, "staticfiles")


def test_static_files_in_the_same_directory(look, gallery, old):
    with override_settings(STORAGES={**settings.STORAGES, "staticfiles": settings.STORAGES["nas"]}):
        old(gallery, "kept.jpg", "a.css")
        Photo.objects.create(image="kept.jpg")
        for words in ([], ["--delete"]):
            assert "'staticfiles' a location of its own" in refused(look, "nas", *words)


@pytest.mark.parametrize(
    ("media", "static", "told"),
    [
        ({}, {"location": "static"}, "0 orphans"),
        ({"location": "media"}, {"location": "static"}, "bucket:static/a.css"),
        ({}, {"bucket_name": "other"}, "bucket:static/a.css"),
        ({}, {}, None),
    ],
)
def test_static_files_in_the_same_bucket(look, nas, use, db, media, static, told):
    """Its storages are objects of their own, with locations."""
    entry = {"BACKEND": f"{__name__}.Timed"}
    with override_settings(
        STORAGES={
            "bucket": {**entry, "OPTIONS": media},
            "staticfiles": {**entry, "OPTIONS": static},
        }
    ):
        use(storages["bucket"]).save("static/a.css", ContentFile(b"x"))
        if told is None:
            refused(look, "bucket")
        else:
            assert look("bucket")[1][0].startswith(told)


def test_static_files_of_a_project_that_has_none(look, gallery):
    """Django's default for them cannot even be made."""
    backend = "django.contrib.staticfiles.storage.StaticFilesStorage"
    with override_settings(STORAGES={**settings.STORAGES, "staticfiles": {"BACKEND": backend}}):
        gallery.save("dir/x", ContentFile(b"x"))
        assert look("nas")[1][0] == "passed over: 1 younger"


def test_hidden_names_do_not_count(look, server, gallery, old):
    """Neither uploads under way, nor what an account has in its home directory."""
    old(gallery, "kept.jpg", ".ssh/authorized_keys", ".profile")
    Photo.objects.create(image="kept.jpg", raw=".profile")
    upload = f"dir/{hidden()}"
    put(gallery, upload)
    grow_old(server, gallery, upload)
    assert look("nas", "--delete") == NOTHING_DELETED
    gallery.delete(upload)


@over_sftp
@pytest.mark.parametrize("alias", ["nas", "disk"])
def test_names_that_are_no_text(look, server, gallery, use, old, alias):
    storage = use(storages[alias])
    old(storage, "kept.jpg")
    Photo.objects.create(image="kept.jpg")
    old(storage, "\udcff.jpg")
    replaced = f"{alias}:\N{REPLACEMENT CHARACTER}.jpg"
    assert look(alias, "--delete")[1][0].startswith(replaced)
    assert storage.listdir("")[1] == ["kept.jpg"]


# What comes up while it runs


def test_what_is_saved_after_the_listing(look, gallery, old, monkeypatch):
    """The file is not in the list; its row is no row without a file, and the file stays."""
    old(gallery, "kept.jpg", "orphan.jpg")
    Photo.objects.create(image="kept.jpg")
    rows = Column.rows

    def save_first(column):
        if not gallery.exists("late.jpg"):
            old(gallery, "late.jpg")
            Photo.objects.create(image="late.jpg")
        return rows(column)

    monkeypatch.setattr(Column, "rows", save_first)
    told = look("nas", "--delete")[1]
    assert told[0].startswith("nas:orphan.jpg")
    assert told[1] == "1 orphan deleted (1 B), 0 rows without their files"
    assert gallery.exists("late.jpg")


@pytest.mark.parametrize("where", ["same", "elsewhere"])
def test_a_row_that_is_committed_after_the_rows_were_read(
    look, gallery, elsewhere, old, monkeypatch, where
):
    old(gallery, "kept.jpg", "dir/late.jpg", "orphan.jpg")
    Photo.objects.create(image="kept.jpg")
    elsewhere(Timed())

    def commit(where_, names, failed):
        if where == "same":
            Photo.objects.create(raw="dir/late.jpg", is_deleted=True)
        else:
            Elsewhere.objects.create(file="late.jpg")
        return iter(())

    monkeypatch.setattr(module, "missing_files", commit)
    assert look("nas", "--delete")[1] == [
        "nas:orphan.jpg  1 B  3 d",
        "passed over: 1 with a name that a row may mean",
        "1 orphan deleted (1 B), 0 rows without their files",
    ]
    assert gallery.exists("dir/late.jpg")


def test_a_file_that_somebody_else_deletes(look, gallery, old, monkeypatch):
    old(gallery, "kept.jpg", "a.jpg", "b.jpg")
    Photo.objects.create(image="kept.jpg")

    def delete(*args):
        gallery.delete("a.jpg")
        return iter(())

    monkeypatch.setattr(module, "missing_files", delete)
    assert [line.split()[0] for line in look("nas", "--delete")[1]] == ["nas:b.jpg", "1"]


# What is refused


def test_a_storage_that_no_field_uses(look, gallery, old):
    old(storages["nas2"], "a.jpg")
    assert look("nas2")[1][0].startswith("nas2:a.jpg")
    told = refused(look, "nas2", "--delete")
    assert told.startswith("No FileField uses the storage 'nas2'")
    assert storages["nas2"].exists("a.jpg")


@pytest.mark.parametrize("row", [None, "missing.jpg"])
def test_a_database_that_has_none_of_the_files(look, gallery, old, row):
    """It may be that of another site, or a new one."""
    old(gallery, "a.jpg")
    if row:
        Photo.objects.create(image=row)
    assert "is this the right database?" in refused(look, "nas", "--delete")
    assert gallery.exists("a.jpg")
    Photo.objects.all().delete()
    gallery.delete("a.jpg")
    gallery.save("dir/.x", ContentFile(b""))
    assert look("nas", "--delete") == NOTHING_DELETED


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_database_that_cannot_be_read(look, gallery, old, is_missing):
    """Without all rows nobody knows whose the files are."""
    old(gallery, "kept.jpg", "a.jpg")
    Photo.objects.create(image="kept.jpg")
    table = Enclosure._meta.db_table
    connection.cursor().execute(
        f"DROP TABLE {table}" if is_missing else f"ALTER TABLE {table} DROP COLUMN file"
    )
    for words in ([], ["--delete"]):
        told = refused(look, "nas", *words)
        assert told.startswith("gallery.Enclosure.file cannot be read from the database 'default'")
        assert told.endswith("Is it there, and migrated?")
    assert gallery.exists("a.jpg")


def test_a_database_that_fails_in_the_middle(look, gallery, old):
    """No file is deleted after a question that was not answered."""
    old(gallery, "kept.jpg", "a.jpg")
    Photo.objects.create(image="kept.jpg")

    def fail(execute, sql, params, many, context):
        if " IN (" in sql and Letter._meta.db_table in sql:
            raise OperationalError("the server closed the connection\nunexpectedly")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fail):
        told = refused(look, "nas", "--delete")
    assert told.startswith("gallery.Letter.file cannot be read")
    assert "(the server closed the connection)" in told
    assert gallery.exists("a.jpg")


def test_a_storage_that_tells_no_times(look, nas, use, db):
    use(storages["bucket"])
    for name in ("kept", "a"):
        storages["bucket"].save(name, ContentFile(b"x"))
    Photo.objects.create(image="kept")
    assert look("bucket")[1][0] == "bucket:a  1 B  -"
    assert "does not tell when a file changed last" in refused(look, "bucket", "--delete")
    assert storages["bucket"].exists("a")


def test_the_working_directory(look, nas, use, db, tmp_path, monkeypatch):
    """It is the root of FileSystemStorage, as long as nothing says otherwise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manage.py").touch()
    with override_settings(
        STORAGES={"default": {"BACKEND": "django.core.files.storage.FileSystemStorage"}}
    ):
        use(default_storage)
        assert "set MEDIA_ROOT" in refused(look, "default", "--delete")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["frozen", "--delete"], "read-only"),
        (["nas", "--older-than", "0h"], "an hour at the least"),
        (["nas:"], "no alias 'nas:'; did you mean 'nas'"),
        (["hostile"], "'../../escaped.txt' leads elsewhere"),
    ],
)
def test_what_is_refused_at_once(look, gallery, words, told):
    assert told in refused(look, *words)


def test_a_root_that_is_not_there(look, gallery):
    Photo.objects.create(image="a.jpg")
    assert refused(look, "nas").startswith("nas: ")


def test_what_cannot_be_deleted_is_told_and_the_others_go(look, nas, use, db, monkeypatch):
    """Another storage than ours, which fails for one file."""
    with override_settings(STORAGES={"bucket": {"BACKEND": f"{__name__}.Timed"}}):
        storage = use(storages["bucket"])
        for name in ("kept", "a", "b"):
            storage.save(name, ContentFile(b"x"))
        Photo.objects.create(image="kept")
        delete = storage.delete

        def delete_but_a(name):
            if name == "a":
                raise PermissionError(13, "Permission denied", name)
            delete(name)

        monkeypatch.setattr(storage, "delete", delete_but_a)
        assert refused(look, "bucket", "--delete") == "bucket:a: Permission denied"
        assert list(storage.blobs) == ["kept", "a"]


@pytest.fixture
def disk(use, db, tmp_path):
    """A storage on this machine, with old files: how many."""

    def disk(count):
        then = time.time() - OLD.total_seconds()
        for number in range(count):
            path = tmp_path / name_of(number)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            os.utime(path, (then, then))
        use(storages["disk"])

    backend = "django.core.files.storage.FileSystemStorage"
    entry = {"BACKEND": backend, "OPTIONS": {"location": tmp_path}}
    with override_settings(STORAGES={"disk": entry}):
        yield disk


def name_of(number):
    return f"{number % 100}/a-name-as-long-as-that-of-a-photo-usually-is-{number}.jpg"


def test_many(look, disk, tmp_path):
    """More than are dealt with at once: each counts once."""
    disk(1000)
    names = [name_of(number) for number in range(0, 1000, 2)]
    Photo.objects.bulk_create([Photo(image=x, raw=f"missing/{n}") for n, x in enumerate(names)])
    status, lines = look("disk", "--delete")
    assert status == 1
    assert lines[-1] == "500 orphans deleted (0 B), 500 rows without their files"
    assert len(set(lines)) == 1001
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 500


def test_memory_stays_constant(look, disk):
    """However many names there are; all of them would take two megabytes more."""
    disk(10_000)
    names = map(name_of, range(9_950))
    Photo.objects.bulk_create([Photo(image=name) for name in names], batch_size=1000)
    peaks = []
    # Other threads of the suite allocate, too, but hardly twice at this time.
    for _ in range(2):
        tracemalloc.start()
        try:
            lines = look("disk")[1]
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(lines) == 51
    assert min(peaks) < 2 * 2**20
