"""What clients and servers do in the middle of a download: go away, stop, change, break."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from django.core.files.base import ContentFile
from django.test import Client

from netstorage import WebDAVStorage
from netstorage.storage import NetworkStorage
from tests.contract.helpers import private_storage
from tests.contract.relay import Relay
from tests.downloads.site import BIG, PATIENCE, Site, content, place, wait_until
from tests.endurance.faulty import Fault, FaultyLine, What, Where
from tests.servers.scripted_http import MemoryDAV, Reply, Request, ScriptedHTTP, multistatus
from tests.servers.scripted_http import response as resource

GONE = 50


def sibling(server, storage, **options) -> NetworkStorage:
    """A storage that sees the same files."""
    return private_storage(server, location=storage.location, **options)


def rest_of(sock: socket.socket) -> bytes:
    """The body of what comes on, until the server ends it; headers were not read yet."""
    response = http.client.HTTPResponse(sock)
    with closing(sock), closing(response):
        try:
            response.begin()
            return response.read()
        except http.client.IncompleteRead as error:
            return error.partial
        except ConnectionResetError:
            return b""


def begin(site: Site, url: str) -> socket.socket:
    """Ask for a file, and wait for the answer without taking any of it."""
    sock = socket.create_connection(("127.0.0.1", site.port), PATIENCE)
    sock.sendall(f"GET {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert sock.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"
    return sock


def test_clients_that_go_away_leave_nothing_behind(site, alone):
    url = place(alone) + "big.bin"
    assert site.ask(url, {"Range": "bytes=0-9"}).status == 206
    begin(site, url).close()

    def open_now() -> int:
        return len(os.listdir("/proc/self/fd"))

    wait_until(lambda: alone.pool.stats().in_use == 0)
    before, descriptors = threading.active_count(), open_now()
    for number in range(GONE):
        sock = begin(site, url)
        if number % 2:
            sock.recv(20_000)
        sock.close()
    wait_until(lambda: alone.pool.stats().in_use == 0)
    assert site.ask(url).body == content(BIG)
    # All sessions and slots may be in use by now; one of each may have been enough before.
    most = alone.pool.limits.max_size
    wait_until(
        lambda: (
            threading.active_count() < before + most + most // 2 and open_now() < descriptors + most
        )
    )


def test_slow_clients_hold_no_session(site, server, alone):
    """Ten of them have begun to read and stopped, with a pool of one session."""
    one = sibling(server, alone, pool={"max_size": 1})
    url = place(one) + "big.bin"
    slow = [begin(site, url) for _ in range(10)]
    assert one.exists("big.bin")
    name = one.save("beside.txt", ContentFile(b"beside"))
    assert site.ask(place(one) + name).body == b"beside"
    wait_until(lambda: one.pool.stats().in_use == 0)
    assert all(rest_of(sock) == content(BIG) for sock in slow[::5])
    for sock in slow:
        sock.close()
    assert one.pool.stats().connects == 1


@pytest.mark.parametrize(("max_size", "bound"), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_downloads_leave_half_of_the_sessions_to_others(
    site, server, alone, monkeypatch, max_size, bound
):
    storage = sibling(server, alone, pool={"max_size": max_size})
    at_once, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(bound)
    run = storage._run

    def counted(*args, **options):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            # As many as may do fetch at the same time: windows come in even numbers.
            together.wait(PATIENCE)
            return run(*args, **options)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(storage, "_run", counted)
    url = place(storage) + "big.bin"
    with ThreadPoolExecutor(8) as threads:
        parts = list(
            threads.map(lambda _: site.ask(url, {"Range": "bytes=0-99999"}).body, range(8))
        )
    assert all(part == content(BIG)[:100_000] for part in parts)
    assert most == bound


@pytest.mark.parametrize("what", ["replaced", "truncated", "removed"])
def test_a_file_that_changes_meanwhile_breaks_the_download_off(site, server, alone, what):
    """The client sees that it has too little; what it has is of the one file."""
    sock = begin(site, place(alone) + "big.bin")
    if what == "replaced":
        alone.save("big.bin", ContentFile(content(BIG)[::-1]))
    elif what == "truncated":
        os.truncate(server.root / alone.location / "big.bin", BIG - 1)
    else:
        alone.delete("big.bin")
    got = rest_of(sock)
    assert 0 < len(got) < BIG
    assert content(BIG).startswith(got)


def test_a_download_goes_on_after_a_lost_session(site, server, alone):
    """Whether it is lost between two windows, or within one."""
    with Relay(server) as relay:
        storage = private_storage(server, **relay.options | {"location": alone.location})
        sock = begin(site, place(storage) + "big.bin")
        relay.cut()
        assert rest_of(sock) == content(BIG)
        storage.pool.close()
    with FaultyLine(server) as line:
        storage = private_storage(server, **line.options | {"location": alone.location})
        storage.exists("warm")
        line.arm(Fault(What.CUT, 4, Where.PART))
        assert site.ask(place(storage) + "big.bin").body == content(BIG)
        assert line.struck
        storage.pool.close()


def test_curl_resumes_a_broken_download(site, alone, tmp_path):
    url = place(alone) + "big.bin"
    partial, data = tmp_path / "big.bin", content(BIG)
    partial.write_bytes(data[:1_000_001])
    curl = ["curl", "-sSf", "--max-time", str(PATIENCE), "-w", "%{http_code} %{size_download}"]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*curl, *arguments, site.url + url], capture_output=True, text=True, check=True
        )
        return done.stdout

    assert run("-C", "-", "-o", str(partial)) == f"206 {BIG - 1_000_001}"
    assert partial.read_bytes() == data
    assert run("-r", "5-9", "-o", str(partial)) == "206 5"
    assert partial.read_bytes() == data[5:10]
    etag = tmp_path / "etag"
    assert run("--etag-save", str(etag), "-o", str(partial)) == f"200 {BIG}"
    assert run("--etag-compare", str(etag), "-o", "/dev/null") == "304 0"
    assert run("-z", str(partial), "-o", "/dev/null") == "304 0"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_downloads_by_threads_of_its_own(site, alone):
    """As workers do that were forked from one that has served before, and is serving."""
    url = place(alone) + "big.bin"
    sock = begin(site, url)
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.alarm(PATIENCE)
        try:
            answer = Client().get(url)
            status = 0 if b"".join(answer.streaming_content) == content(BIG) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert rest_of(sock) == content(BIG)
    assert site.ask(url).body == content(BIG)


# --- servers that know less than they should ------------------------------------------------------


class Odd(MemoryDAV):
    """Ignores ranges, and perhaps does not tell how long a file is."""

    def __init__(self, files: dict[str, bytes], tells_length: bool) -> None:
        super().__init__(files)
        self.tells_length = tells_length

    def _get(self, request: Request, path: str) -> Reply:
        if path not in self.files:
            return Reply(404)
        return Reply(200, {}, self.files[path], length=self.tells_length)

    _head = _get

    def _propfind(self, request: Request, path: str) -> Reply:
        if self.tells_length or path not in self.files:
            return super()._propfind(request, path)
        return multistatus(resource(path, "<D:resourcetype/>"))


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_server_that_ignores_ranges(site, tells_length):
    data = content(BIG)
    with ScriptedHTTP(Odd({"big.bin": data}, tells_length)) as server:
        storage = WebDAVStorage(url=server.url, max_memory_size=2**20)
        url = place(storage) + "big.bin"
        for wanted, start, stop in (
            ("5-9", 5, 10),
            ("5-", 5, BIG),
            ("-5", BIG - 5, BIG),
            ("3000000-10000000", 3_000_000, 10_000_001),
        ):
            part = site.ask(url, {"Range": f"bytes={wanted}"})
            assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{BIG}"
            assert part.body == data[start:stop]
        both = site.ask(url, {"Range": "bytes=9000000-9000009,5-9"})
        assert [body for _, body in both.parts] == [data[9_000_000:9_000_010], data[5:10]]
        past = site.ask(url, {"Range": f"bytes={BIG}-"})
        assert (past.status, past.headers["Content-Range"]) == (416, f"bytes */{BIG}")
        assert site.ask(url, method="HEAD").headers["Content-Length"] == str(BIG)
        server.forget()
        assert site.ask(url).body == data
        assert server.methods().count("GET") <= 3
        storage.pool.close()


@pytest.mark.parametrize("tells_length", [True, False])
def test_its_files_take_little_memory(site, tells_length):
    data = content(4 * BIG)
    with ScriptedHTTP(Odd({"big.bin": data}, tells_length)) as server:
        storage = WebDAVStorage(url=server.url, max_memory_size=2**20)
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)
        tracemalloc.start()
        try:
            with closing(connection):
                connection.request("GET", place(storage) + "big.bin")
                response = connection.getresponse()
                count = 0
                while piece := response.read(2**16):
                    assert data.startswith(piece, count)
                    count += len(piece)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == len(data)
        assert peak < BIG
        storage.pool.close()
