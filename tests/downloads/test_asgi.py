"""Downloads under ASGI, by a real server: no event loop waits for a storage."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import closing

import pytest
from asgiref.sync import async_to_sync
from django.core.files.base import ContentFile
from django.test import AsyncClient, Client, override_settings

from netstorage import WebDAVStorage
from tests.contract.helpers import private_storage
from tests.downloads.conftest import SETTINGS
from tests.downloads.site import (
    BIG,
    PATIENCE,
    Site,
    asgi_site,
    content,
    place,
    wait_until,
    wsgi_site,
)
from tests.servers import fresh_location
from tests.servers.scripted_http import MemoryDAV, Request, ScriptedHTTP

GONE = 20
COMPRESSIBLE = b"the same again. " * 50_000


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site under ASGI."""
    with override_settings(**SETTINGS), asgi_site() as site:
        yield site


def test_whole_and_parts(site, alone):
    url, data = place(alone) + "big.bin", content(BIG)
    whole = site.ask(url)
    assert (whole.status, whole.headers["Content-Length"]) == (200, str(BIG))
    assert whole.body == data
    part = site.ask(url, {"Range": "bytes=70000-9000000"})
    assert (part.status, part.body == data[70_000:9_000_001]) == (206, True)
    both = site.ask(url, {"Range": "bytes=5-9,8000000-9000000"})
    assert [body for _, body in both.parts] == [data[5:10], data[8_000_000:9_000_001]]
    assert site.ask(url, {"Range": f"bytes={BIG}-"}).status == 416
    assert site.ask(url, {"If-None-Match": "*"}).status == 304
    assert site.ask(url, method="HEAD").headers["Content-Length"] == str(BIG)


def test_clients_that_go_away_leave_nothing_behind(site, alone):
    url = place(alone) + "big.bin"
    assert site.ask(url).body == content(BIG)
    before = threading.active_count()
    for _ in range(GONE):
        sock = socket.create_connection(("127.0.0.1", site.port), PATIENCE)
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 200"
        sock.close()
    wait_until(lambda: alone.pool.stats().in_use == 0)
    assert site.ask(url).body == content(BIG)
    # All sessions and slots may be in use by now; one of each may have been enough before.
    most = alone.pool.limits.max_size
    wait_until(lambda: threading.active_count() < before + most + most // 2)


def test_the_event_loop_waits_for_no_server(site):
    """While one request hangs in the middle of a file, others are answered."""
    data, hangs, go_on = content(BIG), threading.Event(), threading.Event()
    files = MemoryDAV({"big.bin": data})

    def script(request: Request):
        if request.method == "GET" and not request.headers["range"].startswith("bytes=0-"):
            hangs.set()
            assert go_on.wait(PATIENCE)
        return files(request)

    with ScriptedHTTP(script) as server:
        storage = WebDAVStorage(url=server.url)
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", place(storage) + "big.bin")
            response = connection.getresponse()
            assert hangs.wait(PATIENCE)
            try:
                assert site.ask("/hello").body == b"hello"
            finally:
                go_on.set()
            assert response.read() == data
        storage.pool.close()


def test_memory_stays_what_it_is(site, server):
    """However large the file and however slow the client."""
    size = 5 * BIG
    storage = private_storage(server, location=fresh_location(server))
    storage.save("big.bin", ContentFile(content(size)))
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)
    tracemalloc.start()
    try:
        with closing(connection):
            connection.request("GET", place(storage) + "big.bin")
            response = connection.getresponse()
            count = 0
            while piece := response.read(2**20):
                assert content(size).startswith(piece, count)
                count += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == size
    assert peak < 16 * 2**20


def test_djangos_own_clients(site, alone):
    """Under ASGI no iterator is consumed behind Django's back, which would warn of it."""
    url = place(alone) + "big.bin"

    async def ask() -> bytes:
        response = await AsyncClient().get(url)
        assert response.is_async
        return b"".join([piece async for piece in response.streaming_content])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert async_to_sync(ask)() == content(BIG)
        response = Client().get(url)
        assert not response.is_async
        assert b"".join(response.streaming_content) == content(BIG)


@pytest.mark.parametrize("serve", [wsgi_site, asgi_site])
def test_middleware_that_compresses_and_compares(serve, alone):
    """Parts are never compressed; what is compressed has a weak tag, which brings 304, no part."""
    alone.save("letters.txt", ContentFile(COMPRESSIBLE))
    middleware = [
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.common.CommonMiddleware",
    ]
    url = place(alone) + "letters.txt"
    with override_settings(**SETTINGS | {"MIDDLEWARE": middleware}), serve() as site:
        gzipped = {"Accept-Encoding": "gzip"}
        plain, packed = site.ask(url), site.ask(url, gzipped)
        assert plain.body == COMPRESSIBLE
        assert packed.headers["Content-Encoding"] == "gzip"
        assert len(packed.body) < len(COMPRESSIBLE)
        assert gzip.decompress(packed.body) == COMPRESSIBLE
        assert "Accept-Encoding" in packed.headers["Vary"]

        part = site.ask(url, {**gzipped, "Range": "bytes=5-400000"})
        assert (part.status, part.body) == (206, COMPRESSIBLE[5:400_001])
        assert part.headers["Content-Encoding"] in {None, "identity"}

        tag = packed.headers["ETag"]
        assert tag.startswith("W/")
        for known in (tag, plain.headers["ETag"]):
            assert site.ask(url, {**gzipped, "If-None-Match": known}).status == 304
            assert site.ask(url, {"If-None-Match": known}).status == 304
        since = {"If-Modified-Since": plain.headers["Last-Modified"]}
        assert site.ask(url, since).status == 304
        # A part of the plain file must not go to who has begun with the compressed one.
        assert site.ask(url, {**gzipped, "Range": "bytes=5-9", "If-Range": tag}).status == 200
        assert site.ask(url, {"If-Match": '"other"'}).status == 412
        assert site.ask(url, {"Range": "bytes=99999999-"}).status == 416
        head = site.ask(url, method="HEAD")
        assert head.headers["Content-Length"] == str(len(COMPRESSIBLE))
