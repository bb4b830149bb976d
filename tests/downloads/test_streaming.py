"""A file arrives byte by byte, on every server, with as few round trips as its protocol needs."""

from __future__ import annotations

import pytest
from django.core.files.base import ContentFile

from netstorage.downloads.content import FIRST_WINDOW
from tests.contract.helpers import private_storage
from tests.downloads.site import Site, content, place
from tests.endurance.faulty import FaultyLine
from tests.servers import SERVERS, fresh_location, make_storage
from tests.servers.base import Server

TELLS_APART = {"lighttpd"}
"""Servers that tell neither tag nor time with a file of a type that they do not know."""

SIZES = (0, 1, FIRST_WINDOW - 1, FIRST_WINDOW, FIRST_WINDOW + 1, 300_000, 10_000_000)


@pytest.fixture(scope="session", params=list(SERVERS))
def server(request: pytest.FixtureRequest, running_servers) -> Server:
    """Each server of the contract in turn."""
    return running_servers.get(request.param, request)


@pytest.fixture(scope="module")
def served(server: Server, site: Site) -> str:
    """Where files of all sizes are."""
    storage = make_storage(server, location=fresh_location(server))
    for size in SIZES:
        storage.save(f"{size}.bin", ContentFile(content(size)))
    return place(storage)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_arrives_as_it_is(site, served, size):
    url, data = f"{served}{size}.bin", content(size)
    answer = site.ask(url)
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(size))
    assert answer.body == data

    for start, stop in ((0, size), (size // 3, 2 * size // 3), (size - 1, size)):
        if 0 <= start < stop:
            part = site.ask(url, {"Range": f"bytes={start}-{stop - 1}"})
            assert (part.status, part.body == data[start:stop]) == (206, True)
            assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_file_tells_the_same_of_itself_however_it_is_asked_for(site, served, size):
    """What a server says of it in a look, and in an answer with its content."""
    url = f"{served}{size}.bin"
    got, looked = site.ask(url), site.ask(url, method="HEAD")
    for name in ("ETag", "Last-Modified", "Content-Length", "Content-Type"):
        assert got.headers[name] == looked.headers[name] is not None
    again = site.ask(url, {"If-None-Match": looked.headers["ETag"]})
    assert again.status == 304
    # A look, then the content: two answers about one version.
    assert site.ask(url, {"If-None-Match": '"other"'}).body == got.body == content(size)


def test_first_bytes_come_with_the_first_read(site, server):
    """A small file costs an OPEN and a flight on SFTP, one GET on WebDAV, and no look before.

    Perhaps SFTP's CLOSE is seen as one turn more: nobody waits for its answer.
    """
    apart = server.name in TELLS_APART
    reading = {2, 3} if server.protocol == "sftp" else {1 + apart}
    with FaultyLine(server) as line:
        storage = private_storage(server, **line.options | {"location": fresh_location(server)})
        storage.save("small.bin", ContentFile(content(FIRST_WINDOW)))
        url = place(storage) + "small.bin"

        def cost(**request) -> tuple[int, int]:
            """How many turns on the line it takes, and how often a session is borrowed."""
            storage.exists("warm")
            line.arm(None)
            before = storage.pool.stats().requests
            assert site.ask(url, **request).status in {200, 206}
            return line.turns, storage.pool.stats().requests - before

        for headers in ({}, {"Range": "bytes=5-9"}, {"Range": "bytes=5-"}):
            turns, borrowed = cost(headers=headers)
            assert turns in reading
            assert borrowed == 1 + apart
        assert cost(method="HEAD") == (1, 1)
        storage.pool.close()
