"""Nobody ever sees half a file under its name, whatever happens to its writer."""

from __future__ import annotations

import itertools
import threading

import pytest
from django.core.files.base import ContentFile

from netstorage import FileChanged
from netstorage.storage import TEMPORARY
from tests.contract.client import Client
from tests.contract.helpers import (
    APACHES,
    GAPS,
    LOCKING,
    LOOSE,
    private_storage,
    raw_names,
    read,
    remove_temporaries,
    uploaded,
    wait_until_begun,
)
from tests.contract.relay import Relay

BIG = 3 * 2**20
NEW = b"new" * BIG


@pytest.fixture
def relay(server):
    with Relay(server) as relay:
        yield relay


@pytest.fixture
def slow(storage, server, relay):
    """A storage whose uploads can be held up in the middle."""

    def make(**options):
        options = relay.options | {"location": storage.options["location"]} | options
        made.append(private_storage(server, **options))
        return made[-1]

    made = []
    yield make
    for each in made:
        each.pool.close()


@pytest.fixture
def in_the_middle(relay, threads):
    """Begins a save and stops it half-way; `finish()` lets it go on and returns its name."""

    def begin(storage, name):
        content = uploaded(NEW)
        relay.hold_after(BIG)
        saving = threads.submit(storage.save, name, content)
        relay.wait_until_held()

        def finish():
            relay.release()
            try:
                return saving.result()
            finally:
                content.close()

        return finish

    return begin


def test_a_save_half_way_is_not_seen(storage, slow, in_the_middle):
    storage.save("dir/other.bin", ContentFile(b"other"))
    finish = in_the_middle(slow(), "dir/new.bin")
    assert not storage.exists("dir/new.bin")
    # rclone breaks some listings off while an upload begins: the session asks once more.
    assert storage.listdir("dir") == ([], ["other.bin"])
    with pytest.raises(FileNotFoundError):
        read(storage, "dir/new.bin")
    with pytest.raises(FileNotFoundError):
        storage.size("dir/new.bin")
    assert finish() == "dir/new.bin"
    assert read(storage, "dir/new.bin") == NEW
    assert storage.listdir("dir")[1].count("new.bin") == 1


def test_an_overwrite_half_way_shows_the_old_file(storage, slow, in_the_middle):
    storage.save("dir/file.bin", ContentFile(b"old"))
    finish = in_the_middle(slow(allow_overwrite=True), "dir/file.bin")
    assert read(storage, "dir/file.bin") == b"old"
    assert storage.size("dir/file.bin") == 3
    assert storage.listdir("dir") == ([], ["file.bin"])
    assert finish() == "dir/file.bin"
    assert read(storage, "dir/file.bin") == NEW


def test_a_name_that_is_taken_meanwhile_stays_the_other_s(storage, slow, in_the_middle, relay):
    """Only the rename is repeated, not the upload."""
    finish = in_the_middle(slow(), "file.bin")
    assert storage.save("file.bin", ContentFile(b"faster")) == "file.bin"
    name = finish()
    assert name != "file.bin"
    assert read(storage, "file.bin") == b"faster"
    assert read(storage, name) == NEW


def test_content_that_shrinks_is_not_published(storage, server, slow, relay, threads):
    storage.save("dir/other.bin", ContentFile(b"other"))
    with uploaded(NEW) as content:
        relay.hold_after(BIG)
        saving = threads.submit(slow().save, "dir/new.bin", content)
        relay.wait_until_held()
        wait_until_begun(server, storage)
        content.file.truncate(BIG)
        relay.release()
        with pytest.raises(OSError, match=r"before its end|content ended") as caught:
            saving.result()
    assert caught.value.filename == "dir/new.bin"
    assert storage.listdir("dir") == ([], ["other.bin"])
    if server.name in LOCKING:
        remove_temporaries(server, storage)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_client_that_is_killed_leaves_no_final_name(storage, server, relay, overwrite):
    storage.save("dir/other.bin", ContentFile(b"other"))
    if overwrite:
        storage.save("dir/file.bin", ContentFile(b"old"))
    options = relay.options | {
        "location": storage.options["location"],
        "allow_overwrite": overwrite,
    }
    with Client(server, "dir/file.bin", [7], 3 * BIG, **options) as client:
        client.wait_until_ready()
        relay.hold_after(BIG)
        client.go()
        relay.wait_until_held()
        client.kill()
    relay.cut()
    assert storage.exists("dir/file.bin") is overwrite
    if overwrite:
        assert read(storage, "dir/file.bin") == b"old"
    assert sorted(storage.listdir("dir")[1]) == ["file.bin", "other.bin"][not overwrite :]
    # The half file lies under its hidden name; only the dead client knew it.
    remove_temporaries(server, storage)


# --- readers while others write ------------------------------------------------------------------

ERRORS = {
    "rclone-webdav": OSError,
    "rclone-sftp": OSError,
    "embedded-webdav": OSError,
    "sabre": OSError,
    **dict.fromkeys(APACHES, PermissionError),
}
"""What servers answer when a file vanishes under their hands, beside that it is not there."""

OLD, NEWER = b"a" * 40_000, b"b" * 90_000


@pytest.mark.parametrize("overwrite", [False, True], ids=["save-and-delete", "overwrite"])
def test_readers_see_the_old_file_or_the_new_one(storage, sibling, server, overwrite):
    storage.save("dir/file.bin", ContentFile(OLD))
    writer = sibling(allow_overwrite=overwrite)
    may_miss = not overwrite or server.name in GAPS
    done = threading.Event()
    looks = itertools.count()
    wrong = []

    def look():
        reader = sibling()
        for turn in itertools.cycle(("read", "size", "listdir", "exists")):
            if done.is_set():
                return
            try:
                wrong.extend(faults(reader, turn))
            except FileNotFoundError as error:
                if not may_miss:
                    wrong.append(f"{turn}: {error}")
            except FileChanged:
                # Between two windows of one read: told, not mixed.
                pass
            except OSError as error:
                if not isinstance(error, ERRORS.get(server.name, ())):
                    wrong.append(f"{turn}: {error!r}")
            next(looks)

    def faults(reader, turn):
        if turn == "read":
            data = read(reader, "dir/file.bin")
            right = data in {OLD, NEWER} or (server.name in LOOSE and len(set(data)) <= 1)
            seen = f"{len(data)} bytes of {set(data)}"
        elif turn == "size":
            seen = reader.size("dir/file.bin")
            right = seen in {len(OLD), len(NEWER)}
        elif turn == "exists":
            seen = reader.exists("dir/file.bin")
            right = seen or may_miss
        else:
            seen = directories, files = reader.listdir("dir")
            # A directory that changes while it is read may show a renamed file or not (POSIX).
            right = not directories and set(files) <= {"file.bin"}
        return [] if right else [f"{turn}: {seen}"]

    readers = [threading.Thread(target=look) for _ in range(2)]
    for thread in readers:
        thread.start()
    try:
        for number in range(20):
            if not overwrite:
                writer.delete("dir/file.bin")
            data = (NEWER, OLD)[number % 2]
            assert writer.save("dir/file.bin", ContentFile(data)) == "dir/file.bin"
    finally:
        done.set()
        for thread in readers:
            thread.join()
    assert wrong == []
    assert next(looks) > 0
    assert not [name for name in raw_names(storage, "dir") if name.startswith(TEMPORARY)]
