"""A site whose URLs lead to storages of the tests, and a client that shows what is on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import itertools
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import cheroot.server
import uvicorn
from cheroot import wsgi
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import path, re_path

from netstorage.downloads.views import download
from netstorage.storage import NetworkStorage

PATIENCE = 30
"""Seconds that a test waits for what must come, before it fails."""
SLOW_READERS = 16
"""Clients that the WSGI server can serve at once."""

BIG = 12 * 2**20
"""More than what is fetched for a client that has stopped, and what the kernel buffers of it."""

shelf: dict[str, NetworkStorage | Path] = {}
"""What is served, by a word in the URL."""
_numbers = itertools.count(1)


def from_storage(request: HttpRequest, key: str, name: str) -> HttpResponseBase:
    storage = shelf[key]
    assert isinstance(storage, NetworkStorage)
    return download(request, name, storage, permission=lambda request, name: True)


def from_disk(request: HttpRequest, key: str, name: str) -> HttpResponseBase:
    folder = shelf[key]
    assert isinstance(folder, Path)
    return FileResponse((folder / name).open("rb"))


async def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


urlpatterns = [
    path("hello", hello),
    re_path(r"storage/(?P<key>\d+)/(?P<name>(?s:.+))\Z", from_storage),
    re_path(r"disk/(?P<key>\d+)/(?P<name>.+)\Z", from_disk),
]


def place(what: NetworkStorage | Path) -> str:
    """Put something on the shelf; return the path below which its files are."""
    key = str(next(_numbers))
    shelf[key] = what
    return f"/{'disk' if isinstance(what, Path) else 'storage'}/{key}/"


@dataclass
class Answer:
    """An answer as it came over the wire."""

    status: int
    headers: Message
    body: bytes

    @property
    def parts(self) -> list[tuple[Message, bytes]]:
        """The parts of a multipart/byteranges, cut by their boundary and nothing else."""
        kind, _, boundary = self.headers["Content-Type"].partition("; boundary=")
        assert kind == "multipart/byteranges"
        first, *parts, last = re.split(rb"(?:\r\n|\A)--" + re.escape(boundary.encode()), self.body)
        assert (first, last.strip()) == (b"", b"--")
        found = []
        for part in parts:
            head, _, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            headers = Message()
            for line in head.decode().split("\r\n"):
                name, _, value = line.partition(": ")
                headers[name] = value
            found.append((headers, body))
        return found


@dataclass
class Site:
    """A server that is running."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())


class _Connection(cheroot.server.HTTPConnection):
    def close(self) -> None:
        super().close()
        # Else it tries to send what is left when it is collected, and complains.
        self.wfile._write_buf.clear()


@contextlib.contextmanager
def wsgi_site() -> Iterator[Site]:
    """Run the site under cheroot."""
    server = wsgi.Server(("127.0.0.1", 0), WSGIHandler(), numthreads=SLOW_READERS)
    server.ConnectionClass = _Connection
    server.shutdown_timeout = 1
    server.error_log = lambda *args, **options: None  # type: ignore[method-assign]
    server.prepare()
    thread = threading.Thread(target=server.serve, name="site")
    thread.start()
    try:
        yield Site(server.bind_addr[1])
    finally:
        server.stop()
        thread.join(PATIENCE)


@contextlib.contextmanager
def asgi_site() -> Iterator[Site]:
    """Run the site under uvicorn."""
    config = uvicorn.Config(ASGIHandler(), port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="site")
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Site(listener.getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE)
        listener.close()


@functools.cache
def content(size: int) -> bytes:
    """Bytes of which no two stretches are alike."""
    return random.Random(size).randbytes(size)


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for what other threads do; fail if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
