"""Many savers of one name: nobody's file is lost, as far as the server lets it be."""

from __future__ import annotations

import contextlib

import pytest

from tests.contract.client import Client
from tests.contract.helpers import LOCKING, STRICT, raw_names, read, remove_temporaries

SIZE = 70_000


def test_64_savers_in_4_processes_get_64_names(storage, server, record_property):
    numbers = [list(range(start, start + 16)) for start in range(0, 64, 16)]
    location = storage.options["location"]
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
    for name in set(names.values()):
        data = read(storage, name)
        assert data == bytes([data[0]]) * SIZE
        assert names[data[0]] == name
    assert {f"dir/{name}" for name in raw_names(storage, "dir")} == set(names.values())
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
