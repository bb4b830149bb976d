"""Many savers of one name: nobody's file is lost, as far as the server lets it be."""

from __future__ import annotations

import contextlib
import io

import pytest
from django.core.files.base import ContentFile

from netstorage.sftp.frames import SETSTAT, encode_path, encode_times
from netstorage.webdav.experiments import temporary
from tests.contract.client import Client
from tests.contract.helpers import (
    FORGETS,
    LOCKING,
    STRICT,
    raw_names,
    read,
    remove_temporaries,
)

SIZE = 70_000


def test_64_savers_in_4_processes_get_64_names(storage, server, record_property):
    numbers = [list(range(start, start + 16)) for start in range(0, 64, 16)]
    location = storage.options["location"]
    if server.name in FORGETS:
        storage.save("dir/first.bin", ContentFile(b""))
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                Client(server, "dir/same.bin", each, SIZE, location=location, pool={"timeout": 60})
            )
            for each in numbers
        ]
        for client in clients:
            client.wait_until_ready()
        for client in clients:
            client.go()
        names = {number: name for client in clients for number, name in client.names().items()}
    assert len(names) == 64
    if server.name in LOCKING:
        # Busy with another's MOVE to the same name: an error, after some attempts, and no file.
        names = {number: name for number, name in names.items() if name}
        assert names
        remove_temporaries(server, storage)
    record_property("names", len(set(names.values())))

    # Whoever was told a name finds a whole file under it, of somebody who was told that name.
    found = {f"dir/{name}": read(storage, f"dir/{name}") for name in raw_names(storage, "dir")}
    found.pop("dir/first.bin", None)
    assert found.keys() == set(names.values())
    for name, data in found.items():
        assert data == bytes([data[0]]) * SIZE
        assert names[data[0]] == name
    if server.name in STRICT:
        assert len(set(names.values())) == 64


@pytest.mark.parametrize("overwrite", [False, True])
def test_savers_of_different_names_do_not_meet(storage, server, overwrite):
    """Two processes make the same missing directories at the same time."""
    location = storage.options["location"]
    options = {"location": location, "allow_overwrite": overwrite}
    with (
        Client(server, "new/dir/a.bin", [1], SIZE, **options) as one,
        Client(server, "new/dir/b.bin", [2], SIZE, **options) as other,
    ):
        for client in (one, other):
            client.wait_until_ready()
        for client in (one, other):
            client.go()
        assert one.names() == {1: "new/dir/a.bin"}
        assert other.names() == {2: "new/dir/b.bin"}
    assert read(storage, "new/dir/a.bin") == b"\1" * SIZE
    assert read(storage, "new/dir/b.bin") == b"\2" * SIZE


@pytest.fixture
def linking(server, sibling):
    """A session that publishes by a hard link, whatever its server's RENAME does; else None."""
    with contextlib.ExitStack() as stack:
        session = None
        if server.protocol == "sftp":
            storage = sibling()
            stack.callback(storage.pool.close)
            session = stack.enter_context(storage.pool.connection(exclusive=True))
            session._renames_safely = False
            upload(session, probe := temporary(storage._path("")))
            makes_links = session._can_link(probe)
            session.remove(probe)
            assert makes_links is (server.name != "rclone-sftp")
            session = session if makes_links else None
        yield session


def upload(session, path):
    session.write(path, io.BytesIO(b"mine"), 4, None, None)


def test_a_link_from_a_lost_session_is_no_other_file(storage, linking):
    """Its answer did not come: what is tried again finds its own file under the name."""
    if linking is None:
        return
    source, target = temporary(storage._path("")), storage._path("file.bin")
    upload(linking, source)
    before = linking.stat(source)
    names = encode_path(source) + encode_path(target)
    linking._wire.status(linking._wire.request_extended("hardlink@openssh.com", names))
    linking.rename(source, target)
    assert linking.stat(target) == before
    with pytest.raises(FileNotFoundError):
        linking.stat(source)


@pytest.mark.parametrize("time", [0, 1_000_000_000])
def test_a_file_that_looks_the_same_is_another(storage, linking, time):
    if linking is None:
        return
    source, target = temporary(storage._path("")), storage._path("file.bin")
    for path in (source, target):
        upload(linking, path)
        times = encode_path(path) + encode_times(time, time)
        linking._wire.status(linking._wire.request(SETSTAT, times))
    before = linking.stat(source)
    with pytest.raises(FileExistsError):
        linking.rename(source, target)
    assert linking.stat(source) == linking.stat(target) == before
    linking.remove(source)
