"""WebDAV as servers really speak it: what WEBDAV.md measured, each trap a test.

Servers that behave are real; those that do not are scripted (`tests.servers.scripted_http`).
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import itertools
import random
import re
import select
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from django.core.files.base import ContentFile

from netstorage import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    FileChanged,
    ProtocolError,
    WebDAVStorage,
)
from netstorage.session import Stat
from netstorage.storage import NAMES_TRIED, TEMPORARY
from netstorage.webdav import endpoint as endpoint_module
from netstorage.webdav.habits import LIFETIME, Habits, Notebook
from netstorage.webdav.session import LOOK_FIRST
from tests.contract.helpers import Stream, read
from tests.servers import SERVERS, WEBDAV, fresh_location
from tests.servers.apache import MODULES, Apache
from tests.servers.base import Server, free_port
from tests.servers.docker import Container
from tests.servers.keys import Authority
from tests.servers.nginx import Nginx, NginxPlain, NginxProxy
from tests.servers.scripted_http import (
    COLLECTION,
    DROP,
    SILENCE,
    Forward,
    MemoryDAV,
    Reply,
    Request,
    ScriptedHTTP,
    Tunnel,
    instead,
    multistatus,
    response,
)

ELSEWHERE = (Container, NginxProxy, NginxPlain)
LOCAL = [name for name in WEBDAV if not issubclass(SERVERS[name], ELSEWHERE)]
VARIANTS: dict[str, Callable[[], Any]] = {
    "apache-digest": lambda: Apache(auth="digest"),
    "apache-tls": lambda: Apache(tls=True),
    "apache-certificate": lambda: Apache(client_certificate=True),
    "apache-deflate": lambda: Apache(deflate=True),
    "apache-deflate-always": lambda: Apache(
        deflate=True,
        extra=[
            f"LoadModule env_module {MODULES}/mod_env.so",
            '<Files "a.txt">\nSetEnv force-gzip 1\n</Files>',
        ],
    ),
    "apache-encodings": lambda: Apache(deflate=True, extra=["AddEncoding x-gzip .gz .tgz"]),
    "apache-impatient": lambda: Apache(extra=["KeepAliveTimeout 50ms"]),
    "apache-without-slashes": lambda: Apache(extra=["DirectorySlash Off"]),
    "nginx-plain": NginxPlain,
    "nginx-small": lambda: Nginx(client_max_body_size=1000),
    "nginx-certificate": lambda: Nginx(client_certificate=True),
}
assert LOOK_FIRST < 2**21
BIG = random.Random(1).randbytes(3 * 2**20 + 7)
"""More than is sent without asking for the directory first, and than sockets buffer."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def variant() -> Iterator[Callable[[str], Any]]:
    """Starts a variant of a server when it is first asked for."""
    running: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:

        def get(name: str) -> Any:
            if name not in running:
                server = VARIANTS[name]()
                if reason := server.unavailable():
                    pytest.skip(f"{name}: {reason}")
                running[name] = stack.enter_context(server)
            return running[name]

        yield get


@pytest.fixture(scope="session", params=LOCAL)
def dav(request: pytest.FixtureRequest, running_servers: Any) -> Server:
    """Each real WebDAV server whose disk is this machine's, in turn."""
    return running_servers.get(request.param, request)


@pytest.fixture
def make() -> Iterator[Callable[..., WebDAVStorage]]:
    """Makes storages with pools of their own, and sees that every session comes back."""
    made: list[WebDAVStorage] = []

    def make(server: Any = None, **options: Any) -> WebDAVStorage:
        """A storage at an URL, or at a fresh location of a real server."""
        own: dict[str, Any] = {"timeout": 20 + next(_numbers) / 1000}
        if isinstance(server, Server):
            own |= server.options | {"location": fresh_location(server)}
        elif server is not None:
            own |= {"url": server.url}
        made.append(WebDAVStorage(**own | options))
        return made[-1]

    yield make
    for storage in made:
        pool = storage.__dict__.get("pool")
        if pool is not None:
            assert (pool.stats().in_use, pool.stats().connecting) == (0, 0)
            pool.close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedHTTP]]:
    """Starts scripted servers."""
    with contextlib.ExitStack() as stack:

        def start(script: Any = None, **options: Any) -> ScriptedHTTP:
            return stack.enter_context(ScriptedHTTP(script or MemoryDAV(), **options))

        yield start


@pytest.fixture
def recorded(scripted: Any) -> Callable[[Server], tuple[ScriptedHTTP, dict[str, Any]]]:
    """Puts a recorder in front of a real server; the options lead through it."""

    def record(server: Server) -> tuple[ScriptedHTTP, dict[str, Any]]:
        recorder = scripted(Forward(server))
        options = server.options
        url = urlsplit(options["url"])._replace(netloc=f"{recorder.host}:{recorder.port}")
        location = fresh_location(server)
        (server.root / location).mkdir()
        return recorder, options | {"url": url.geturl(), "location": location}

    return record


def disk(server: Server, storage: WebDAVStorage) -> Path:
    """The folder on this machine's disk behind a storage."""
    assert server.root is not None
    folder = server.root / storage.location
    folder.mkdir(exist_ok=True)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content; None for directories."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def put(storage: WebDAVStorage, path: str, data: bytes = b"") -> None:
    """Write a file under a name of its own by the session alone."""
    with storage.pool.connection() as session:
        session.write(storage._path(path), io.BytesIO(data), len(data), None, None)


# Quoting

ODD_NAMES = [
    "pct%41.txt",
    "pct%2541",
    "a%20b.txt",
    "a b.txt",
    "a#b.txt",
    "a+b.txt",
    "a&b=c@d:e,f!g$h.txt",
    "~a'b(c)*[d]{e}|^`.txt",
    "100%",
    "%",
    "ünï/cödé 🗎.txt",
    "e\u0301 is not \u00e9",
    "...",
    ".hidden",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_what_they_are(make, dav, name):
    storage = make(dav)
    assert storage.save(name, ContentFile(b"odd")) == name
    folder = disk(dav, storage)
    assert {k: v for k, v in tree(folder).items() if v is not None} == {name: b"odd"}
    assert storage.exists(name)
    assert storage.size(name) == 3
    assert read(storage, name) == b"odd"
    parent, _, last = name.rpartition("/")
    if not (dav.name == "nginx" and last.startswith(".")):
        assert storage.listdir(parent) == ([], [last])
    storage.delete(name)
    assert not storage.exists(name)
    assert {k: v for k, v in tree(folder).items() if v is not None} == {}


@pytest.mark.parametrize("name", ["a?b.txt", "a;b.txt", "a?b;c", "d;x/e?.txt"])
def test_a_name_that_the_server_would_cut_is_refused(make, dav, name):
    """WsgiDAV cuts a Destination at ``?`` and ``;``; nothing may be stored under what is left."""
    storage = make(dav)
    folder = disk(dav, storage)
    if dav.name == "embedded-webdav":
        with pytest.raises(OSError, match="would cut the name") as caught:
            storage.save(name, ContentFile(b"odd"))
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == name
        expected = {}
    else:
        assert storage.save(name, ContentFile(b"odd")) == name
        assert read(storage, name) == b"odd"
        expected = {name: b"odd"}
    assert {k: v for k, v in tree(folder).items() if v is not None} == expected


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\tb", "a\x1fb", "a\x7fb", "dir\n/a"])
def test_control_characters_are_refused_everywhere(make, dav, name):
    storage = make(dav)
    folder = disk(dav, storage)
    # lighttpd does so by itself, when it is asked whether the name is free.
    with pytest.raises(OSError, match=r"control characters|400") as caught:
        storage.save(name, ContentFile(b"odd"))
    assert caught.value.errno == errno.EINVAL
    assert tree(folder) == {}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("plain", "plain"),
        ("with%20space", "with space"),
        ("pct%2541", "pct%41"),
        ("%c3%bc+%23", "ü+#"),
        ("a%20b/c%2520d", "a b/c%20d"),
        # As browsers show them.
        ("with space", "with space"),
        ("ü", "ü"),
    ],
)
def test_the_base_url_is_quoted_once(make, dav, url, base, slash):
    top = disk(dav, make(dav))
    (top / base).mkdir(parents=True)
    storage = make(dav, url=f"{dav.options['url']}{top.name}/{url}{slash}", location="")
    assert storage.save("dir/f%41.txt", ContentFile(b"base")) == "dir/f%41.txt"
    assert tree(top / base) == {"dir": None, "dir/f%41.txt": b"base"}
    assert storage.listdir("") == (["dir"], [])
    assert storage.listdir("dir") == ([], ["f%41.txt"])
    assert read(storage, "dir/f%41.txt") == b"base"
    storage.delete("dir/f%41.txt")
    assert tree(top / base) == {"dir": None}


@pytest.mark.parametrize("base", ["a;b", "a?b"])
def test_a_base_url_that_the_server_would_cut(make, dav, base):
    """No name below it survives on WsgiDAV: nothing is stored elsewhere, and it is said."""
    top = disk(dav, make(dav))
    (top / base).mkdir()
    storage = make(dav, url=f"{dav.options['url']}{top.name}/{quote(base)}", location="")
    if dav.name == "embedded-webdav":
        with pytest.raises(OSError, match="would cut the name"):
            storage.save("f.txt", ContentFile(b"base"))
        assert b"base" not in tree(top).values()
    else:
        storage.save("f.txt", ContentFile(b"base"))
        assert tree(top / base) == {"f.txt": b"base"}


@pytest.mark.parametrize("path", ["", "/"])
def test_a_base_url_without_a_path(make, scripted, path):
    server = scripted(MemoryDAV(root=""))
    storage = make(url=f"http://{server.host}:{server.port}{path}")
    storage.save("dir/a.txt", ContentFile(b"a"))
    assert storage.listdir("") == (["dir"], [])
    assert storage.exists("")
    assert [r.target for r in server.requests if "//" in r.target] == []
    assert {r.headers["destination"] for r in server.requests if r.method == "MOVE"} == {
        f"http://{server.host}:{server.port}/dir/a.txt"
    }


@pytest.mark.parametrize("name", [".", "..", "a/../../b", "a//b", "/a", "a/"])
def test_the_session_sends_no_segment_of_dots(make, scripted, name):
    """``DELETE /d/%2E%2E`` removed the parent on Apache. The storage cleans names before."""
    server = scripted()
    storage = make(server)
    with storage.pool.connection() as session:
        server.forget()
        for verb in (session.remove, session.stat, session.listdir):
            with pytest.raises(ValueError, match="no path below"):
                verb(name)
        with pytest.raises(ValueError, match="no path below"):
            session.makedirs(name)
        assert server.requests == []
        with pytest.raises(FileNotFoundError):
            session.remove("%2e%2e")
        assert [r.target for r in server.requests] == ["/dav/%252e%252e"]


# What every request carries


def everything(storage: WebDAVStorage) -> None:
    """Use every verb."""
    storage.save("a.txt", ContentFile(b"a" * 100))
    storage.save("a.txt", ContentFile(b"b"))
    storage.save("dir/sub/b.txt", ContentFile(b""))
    storage.save("dir/big.bin", ContentFile(BIG))
    storage.save("dir/stream.bin", Stream(iter([b"1", b"2" * 100])))
    assert storage.exists("dir")
    storage.size("a.txt")
    storage.get_modified_time("a.txt")
    storage.listdir("")
    storage.listdir("dir")
    read(storage, "a.txt")
    with storage.open("dir/big.bin") as file:
        file.seek(2**20)
        assert file.read(10) == BIG[2**20 : 2**20 + 10]
    with storage.open("a.txt", "wb") as file:
        file.write(b"again")
    storage.delete("a.txt")
    storage.delete("dir/sub/b.txt")
    with contextlib.suppress(OSError):
        storage.delete("dir/sub")


def test_what_requests_carry(make, dav, recorded):
    recorder, options = recorded(dav)
    everything(make(**options))
    assert set(recorder.methods()) == {"PROPFIND", "PUT", "MOVE", "MKCOL", "GET", "DELETE"}
    for request in recorder.requests:
        headers = request.headers
        # Apache with mod_deflate would answer ranges of the compressed body.
        assert headers["accept-encoding"] == "identity"
        # Behind mod_proxy_fcgi a chunked PUT left an empty file.
        assert not request.chunked
        assert "transfer-encoding" not in headers
        assert "expect" not in headers
        assert int(headers.get("content-length", 0)) == len(request.body)
        if request.method == "PUT":
            assert "content-length" in headers
            assert headers["content-type"] == "application/octet-stream"
        if request.method == "PROPFIND":
            # Without Depth some servers walk the tree, others refuse.
            assert headers["depth"] in {"0", "1"}
            # lighttpd refuses a body without a type.
            assert headers["content-type"] == "application/xml; charset=utf-8"
            assert b"allprop" not in request.body
            assert b"<resourcetype/>" in request.body
            # A listing that only tells names is half as long.
            assert (b"<getcontentlength/>" in request.body) == (headers["depth"] == "0")
        if request.method == "MOVE":
            assert headers["overwrite"] in {"T", "F"}
            assert headers["destination"].startswith(options["url"])
            assert dav.options["password"] not in headers["destination"]
        if request.method == "DELETE" and not request.target.endswith("/"):
            assert headers["depth"] == "0"


def test_one_connection_for_a_session(make, dav, recorded):
    recorder, options = recorded(dav)
    storage = make(**options)
    storage.save("a.txt", ContentFile(b"a"))
    for _ in range(5):
        storage.exists("a.txt")
        storage.exists("missing")
        read(storage, "a.txt")
    assert recorder.connections == 1
    assert storage.pool.stats().connects == 1
    with storage.pool.connection() as one, storage.pool.connection() as two:
        one.stat(storage._path("a.txt"))
        two.stat(storage._path("a.txt"))
    assert recorder.connections == storage.pool.stats().connects == 2


SMALL = ["PROPFIND", "PUT", "MOVE"]
"""Is the name free? The body. Its name."""
BIG_ONE = ["PROPFIND", "PROPFIND", "PUT", "PROPFIND", "MOVE"]
"""From 1 MiB on, is the directory there? And is the body whole? Each costs less than the body."""
SPARES_ON_DELETE = {"apache", "nginx", "lighttpd", "embedded-webdav"}
"""Servers that refuse to delete a collection with Depth 0: a file needs no look before."""
SPARES_ON_MOVE = {"apache", "nginx"}
"""Servers that refuse to move a file onto a collection, with Overwrite: T."""


def warm_up(storage: WebDAVStorage) -> None:
    """Let every habit of the server be found out."""
    for data in (b"content", b"again"):
        with storage.open(".warm-up", "wb") as file:
            file.write(data)
    storage.delete(".warm-up")


@pytest.fixture
def warm(make, dav, recorded):
    """A recorder with a storage on an open session that knows its server, and dir/a.txt in it."""
    recorder, options = recorded(dav)

    def start(**more: Any) -> tuple[ScriptedHTTP, WebDAVStorage]:
        storage = make(**options, **more)
        storage.save("dir/a.txt", ContentFile(b"content"))
        warm_up(storage)
        recorder.forget()
        return recorder, storage

    return start


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (lambda s: s.exists("dir/a.txt"), ["PROPFIND"]),
        (lambda s: s.exists("missing"), ["PROPFIND"]),
        (lambda s: s.size("dir/a.txt"), ["PROPFIND"]),
        (lambda s: s.get_modified_time("dir/a.txt"), ["PROPFIND"]),
        (lambda s: s.listdir("dir"), ["PROPFIND"]),
        (lambda s: s.listdir(""), ["PROPFIND"]),
        (lambda s: s.open("dir/a.txt"), []),
        (lambda s: read(s, "dir/a.txt"), ["GET"]),
        (lambda s: s.open("dir/a.txt").read(1), ["GET"]),
        (lambda s: list(s.open("dir/a.txt").chunks()), ["GET"]),
        (lambda s: s.save("dir/b.txt", ContentFile(b"b")), SMALL),
        (lambda s: s.save("b.txt", ContentFile(b"")), SMALL),
        (lambda s: s.save("dir/big", ContentFile(BIG)), BIG_ONE),
        (lambda s: s.exists("dir"), ["PROPFIND"]),
        # The first name was taken: one more look, at the alternative.
        (lambda s: s.save("dir/a.txt", ContentFile(b"b")), ["PROPFIND", *SMALL]),
    ],
)
def test_how_many_requests_it_takes(dav, warm, what, expected):
    """What crosses the wire on a session that is open, the same on every server."""
    recorder, storage = warm()
    what(storage)
    methods = recorder.methods()
    if dav.name == "apache":
        # It sends those who ask for a collection to the name with a slash.
        asked = [r.target.rpartition("/")[2] for r in recorder.requests]
        methods = [m for m, name in zip(methods, asked, strict=True) if name != "dir"]
    assert methods == expected


@pytest.mark.parametrize("name", ["dir/a.txt", "dir/new.txt"])
@pytest.mark.parametrize("how", ["save", "open"])
def test_how_many_requests_overwriting_takes(dav, warm, name, how):
    """A look that no collection is in the way goes first only where one would be destroyed."""
    recorder, storage = warm(allow_overwrite=how == "save")
    if how == "save":
        assert storage.save(name, ContentFile(b"new")) == name
    else:
        storage.open(name, "wb").close()
    look = [] if dav.name in SPARES_ON_MOVE else ["PROPFIND"]
    assert recorder.methods() == ["PUT", *look, "MOVE"]


def test_how_many_requests_deleting_takes(dav, warm):
    """A look goes first only where a collection would be destroyed."""
    recorder, storage = warm()
    spares = dav.name in SPARES_ON_DELETE
    storage.delete("missing")
    assert recorder.methods() == (["DELETE"] if spares else ["PROPFIND"])
    recorder.forget()
    storage.delete("dir/a.txt")
    assert recorder.methods() == (["DELETE"] if spares else ["PROPFIND", "DELETE"])


def test_what_one_session_learned_all_know(dav, warm):
    recorder, storage = warm()
    path = storage._path("dir/a.txt")
    with storage.pool.connection(exclusive=True), storage.pool.connection() as other:
        recorder.forget()
        put(storage, "dir/b.txt", b"b")
        other.replace(storage._path("dir/b.txt"), path)
        other.remove(path)
    spares_on_move, spares_on_delete = dav.name in SPARES_ON_MOVE, dav.name in SPARES_ON_DELETE
    assert [m for m in recorder.methods() if m != "PROPFIND"] == ["PUT", "MOVE", "DELETE"]
    # The third session, of put(), asks for the root.
    looks = 1 + (not spares_on_move) + (not spares_on_delete)
    assert recorder.methods().count("PROPFIND") == looks


def test_how_many_requests_a_new_directory_takes(warm):
    """Learnt from the failed PUT, then made from the bottom up to what is there."""
    recorder, storage = warm()
    storage.save("new/a.txt", ContentFile(b"a"))
    assert recorder.methods() == [*["PROPFIND", "PUT", "PROPFIND"], "MKCOL", *["PUT", "MOVE"]]
    recorder.forget()
    storage.save("one/two/big", ContentFile(BIG))
    assert recorder.methods().count("PUT") == 1
    assert recorder.methods().count("MKCOL") == 3


# Uploads


def test_content_without_a_size_is_spooled_first(make, scripted):
    server = scripted()
    storage = make(server, max_memory_size=10)

    def pieces() -> Iterator[bytes]:
        yield b"a" * 8
        assert server.methods() == ["PROPFIND", "PROPFIND"]  # no body is on its way
        yield b"b" * 8

    storage.save("a.txt", Stream(pieces()))
    [upload] = [r for r in server.requests if r.method == "PUT"]
    assert upload.body == b"a" * 8 + b"b" * 8
    assert upload.headers["content-length"] == "16"


@pytest.mark.parametrize("how", ["dropped", "cut"])
def test_a_lost_upload_is_sent_again_from_the_beginning(make, scripted, how):
    dav = MemoryDAV()
    lost: list[Request] = []

    def lose(request: Request) -> object:
        if lost:
            return None
        lost.append(request)
        return DROP if how == "dropped" else b"HTTP/1.1 20"

    server = scripted(instead(dav, PUT=lose))
    storage = make(server)
    storage.exists("x")
    content = ContentFile(BIG)
    content.seek(5)
    assert storage.save("a.bin", content) == "a.bin"
    assert dav.files == {"/dav/a.bin": BIG}
    assert [r.body == BIG for r in server.requests if r.method == "PUT"] == [True, True]


def test_a_server_that_keeps_less_is_found_out(make, scripted):
    dav = MemoryDAV()

    def keep_half(request: Request) -> Reply:
        dav.files[request.path] = request.body[: len(request.body) // 2]
        return Reply(201)

    storage = make(scripted(instead(dav, PUT=keep_half)))
    with pytest.raises(OSError, match="holds 50 of 100 bytes") as caught:
        storage.save("a.txt", ContentFile(b"x" * 100))
    assert caught.value.errno == errno.EIO
    assert dav.files == {}


class Forgetful(MemoryDAV):
    """Says 201 to uploads of which it keeps half, while `forgets`."""

    forgets = False

    def _put(self, request: Request, path: str) -> Reply:
        reply = super()._put(request, path)
        if self.forgets:
            self.files[path] = request.body[: len(request.body) // 2]
        return reply


def upload(storage: WebDAVStorage, data: bytes = b"x" * 100) -> None:
    storage.save("a.bin", ContentFile(data))


def test_a_server_that_stored_a_small_file_is_believed(make, scripted):
    """An empty one proves nothing, and a large one is looked at for ever."""
    server = scripted()
    storage = make(server)
    look = ["PROPFIND"]
    for data, check in [(b"", look), (b"x", look), (b"x", []), (b"", []), (BIG, look)]:
        server.forget()
        upload(storage, data)
        requests = [r.method for r in server.requests if TEMPORARY in r.path]
        assert requests == ["PUT", *check, "MOVE"]


def test_a_server_that_tells_no_length_is_not_believed(make, scripted):
    """There is nothing to compare; each upload is looked at for a length all the same."""
    dav = MemoryDAV()
    head = Reply(200, {"Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}, length=False)
    known = lambda request: (  # noqa: E731
        head if TEMPORARY in request.path or request.path == "/dav/" else None
    )
    server = scripted(instead(dav, PROPFIND=Reply(405), HEAD=known))
    storage = make(server)
    for _ in range(2):
        server.forget()
        upload(storage)
        requests = [r.method for r in server.requests if TEMPORARY in r.path]
        assert requests[-3:] == ["PUT", "HEAD", "MOVE"]
    assert not habits(storage).stored_whole


@pytest.mark.parametrize("how", ["big", "repeated", "200"])
def test_a_short_upload_is_found_out_later(make, scripted, how):
    """A large one, and one about which something was unusual, is never taken on trust."""
    dav = Forgetful()
    once: list[int] = []

    def put_it(request: Request) -> object:
        if how == "200" and dav.forgets:
            reply = dav(request)
            reply.status = 200
            return reply
        if how == "repeated" and dav.forgets and not once:
            once.append(1)
            return DROP
        return None

    storage = make(scripted(instead(dav, PUT=put_it)))
    upload(storage)
    upload(storage)
    dav.files.clear()
    dav.forgets = True
    with pytest.raises(OSError, match=r"the server holds .* bytes that were sent"):
        upload(storage, BIG if how == "big" else b"x" * 100)
    assert dav.files == {}
    # It is not believed any more.
    with pytest.raises(OSError, match="holds 50 of 100 bytes"):
        upload(storage)
    dav.forgets = False
    upload(storage)
    assert habits(storage).stored_whole
    dav.forgets = True
    with pytest.raises(OSError, match="holds 50 of 100 bytes"):
        upload(storage)


def test_distrust_outlasts_what_others_find_at_the_same_time(make, scripted):
    """One session is told that its upload is whole just when another's is found short."""
    dav = Forgetful()
    looked, go_on = threading.Event(), threading.Event()

    def wait(request: Request) -> None:
        if request.path == "/dav/whole":
            looked.set()
            assert go_on.wait(20)

    storage = make(scripted(instead(dav, PROPFIND=wait)))
    storage.exists("x")
    with ThreadPoolExecutor(1) as threads:
        whole = threads.submit(put, storage, "whole", b"x" * 100)
        assert looked.wait(20)
        dav.forgets = True
        try:
            with pytest.raises(OSError, match="holds 50 of 100 bytes"):
                put(storage, "short", b"x" * 100)
        finally:
            go_on.set()
        whole.result()
    with pytest.raises(OSError, match="holds 50 of 100 bytes"):
        put(storage, "short", b"x" * 100)


def test_content_that_shrinks_under_our_hands(make, scripted, tmp_path):
    dav = MemoryDAV()
    storage = make(scripted(dav))
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as source, storage.pool.connection() as session:
        with pytest.raises(OSError, match="ended 100 bytes before its end"):
            session.write("a.txt", source, 200, None, None)
        assert session.stat("") == Stat(is_dir=True)
    assert dav.files == {}


@pytest.mark.parametrize(
    ("status", "number"),
    [
        (400, errno.EINVAL),
        (403, errno.EACCES),
        (405, errno.ENOTSUP),
        (413, errno.EFBIG),
        (414, errno.ENAMETOOLONG),
        (423, errno.EBUSY),
        (429, errno.EIO),
        (500, errno.EIO),
        (501, errno.ENOTSUP),
        (503, errno.EIO),
        (507, errno.ENOSPC),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "MOVE"])
def test_what_a_status_means_for_an_upload(make, scripted, method, status, number):
    dav = MemoryDAV()
    storage = make(scripted(instead(dav, **{method: Reply(status)})))
    with pytest.raises(OSError, match=f"answered {status}") as caught:
        storage.save("a.txt", ContentFile(b"a"))
    assert caught.value.errno == number
    assert caught.value.filename == "a.txt"
    assert dav.files == {}
    # It was a verdict: the session goes on.
    assert storage.pool.stats().closed_broken == 0
    assert not storage.exists("a.txt")


@pytest.mark.parametrize("data", [b"x" * 2000, BIG], ids=["small", "big"])
def test_too_large_for_nginx(make, variant, data):
    """nginx answers 413 before it has read the body."""
    server = variant("nginx-small")
    storage = make(server)
    folder = disk(server, storage)
    with pytest.raises(OSError, match="413") as caught:
        storage.save("dir/a.txt", ContentFile(data))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == "dir/a.txt"
    storage.save("b.txt", ContentFile(b"x" * 1000))
    assert {k: v for k, v in tree(folder).items() if v is not None} == {"b.txt": b"x" * 1000}


@pytest.mark.parametrize(
    ("status", "kind", "number"),
    [(413, OSError, errno.EFBIG), (507, OSError, errno.ENOSPC), (401, AuthenticationError, None)],
)
def test_an_answer_before_the_body_is_read(make, scripted, status, kind, number):
    early = instead(lambda request: None, PUT=Reply(status))
    storage = make(scripted(early=early))
    with pytest.raises(kind, match=str(status)) as caught:
        storage.save("a.bin", ContentFile(BIG))
    assert caught.value.errno == number


# Directories


@pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "big"])
def test_missing_directories_are_made(make, dav, data):
    storage = make(dav)
    disk(dav, storage).rmdir()
    assert storage.save("a/b/c.txt", ContentFile(data)) == "a/b/c.txt"
    assert tree(disk(dav, storage)) == {"a": None, "a/b": None, "a/b/c.txt": data}


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500])
def test_every_status_for_a_missing_parent(make, scripted, status):
    dav = MemoryDAV()

    def refuse(request: Request) -> Reply | None:
        parent = request.path.rstrip("/").rpartition("/")[0]
        return None if parent in dav.folders else Reply(status)

    storage = make(scripted(instead(dav, PUT=refuse, MKCOL=refuse)))
    assert storage.save("a/b/c.txt", ContentFile(b"c")) == "a/b/c.txt"
    assert dav.files == {"/dav/a/b/c.txt": b"c"}
    assert dav.folders == {"/dav", "/dav/a", "/dav/a/b"}


@pytest.mark.parametrize("status", [201, 301, 405])
def test_others_make_the_directory_at_the_same_time(make, scripted, status):
    """Whatever MKCOL says of a directory that is there already, it is there."""
    dav = MemoryDAV()

    def late(request: Request) -> Reply:
        dav.folders.add(request.path.rstrip("/"))
        return Reply(status, {"Location": request.target} if status == 301 else {})

    storage = make(scripted(instead(dav, MKCOL=late)))
    assert storage.save("a/b.txt", ContentFile(b"b")) == "a/b.txt"
    assert dav.files == {"/dav/a/b.txt": b"b"}


def test_a_directory_that_cannot_be_made(make, scripted):
    storage = make(scripted(instead(MemoryDAV(), MKCOL=Reply(403))))
    with pytest.raises(PermissionError) as caught:
        storage.save("a/b.txt", ContentFile(b"b"))
    assert caught.value.filename == "a/b.txt"


@pytest.mark.parametrize("name", ["file/below.txt", "file/a/b/below.txt"])
@pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "big"])
def test_a_file_where_a_directory_is_needed(make, dav, name, data):
    storage = make(dav)
    storage.save("file", ContentFile(b"in the way"))
    with pytest.raises(FileExistsError) as caught:
        storage.save(name, ContentFile(data))
    assert caught.value.filename == name
    assert tree(disk(dav, storage)) == {"file": b"in the way"}


def test_below_a_file_nothing_exists(make, dav):
    """PROPFIND answers 400 on Apache and 403 on lighttpd there."""
    storage = make(dav)
    storage.save("file", ContentFile(b"file"))
    for name in ("file/below", "file/a/b"):
        assert not storage.exists(name)
        with pytest.raises(FileNotFoundError):
            storage.size(name)
        if dav.name != "lighttpd":
            # It takes what follows a file's name for PATH_INFO, and sends the file.
            with pytest.raises(FileNotFoundError):
                read(storage, name)
        storage.delete(name)
    assert read(storage, "file") == b"file"


def test_collections_without_their_slash(make, dav):
    """Apache answers 301 to them."""
    storage = make(dav)
    storage.save("dir/sub/a.txt", ContentFile(b"a"))
    assert storage.exists("dir")
    assert storage.exists("dir/sub")
    assert storage.exists("")
    assert storage.get_modified_time("dir")
    for ask in (storage.size, lambda name: read(storage, name)):
        with pytest.raises(IsADirectoryError) as caught:
            ask("dir")
        assert caught.value.filename == "dir"
    with pytest.raises(NotADirectoryError):
        storage.listdir("dir/sub/a.txt")


# Removing


def test_nothing_is_removed_recursively(make, dav):
    storage = make(dav)
    storage.save("dir/sub/a.txt", ContentFile(b"a"))
    before = tree(disk(dav, storage))
    for name in ("dir", "dir/", "dir/sub"):
        with pytest.raises(OSError, match="not empty") as caught:
            storage.delete(name)
        assert caught.value.errno == errno.ENOTEMPTY
        assert caught.value.filename == name
    assert tree(disk(dav, storage)) == before


def test_an_empty_collection_is_removed(make, dav):
    storage = make(dav)
    folder = disk(dav, storage)
    (folder / "empty").mkdir()
    if dav.name == "nginx":
        # It lists no hidden names, and would remove them along.
        with pytest.raises(OSError, match="begin with a dot") as caught:
            storage.delete("empty")
        assert caught.value.errno == errno.ENOTSUP
        assert tree(folder) == {"empty": None}
    else:
        storage.delete("empty")
        assert tree(folder) == {}
    storage.delete("missing")
    storage.delete("missing/too")


def test_a_collection_of_hidden_names_is_not_empty(make, dav):
    storage = make(dav)
    folder = disk(dav, storage)
    (folder / "dir").mkdir()
    (folder / "dir" / ".keep").write_bytes(b"kept")
    with pytest.raises(OSError, match=r"not empty|begin with a dot"):
        storage.delete("dir")
    assert tree(folder) == {"dir": None, "dir/.keep": b"kept"}


@pytest.mark.parametrize("children", ["first", "last"])
def test_the_collection_may_come_behind_its_children(make, scripted, children):
    """Nothing says in which order a multistatus comes."""
    dav = MemoryDAV({"dir/a.txt": b"a"})
    dav.folders.add("/dav/dir")
    parts = [dav._response("/dav/dir"), dav._response("/dav/dir/a.txt")]
    if children == "first":
        parts.reverse()

    def list_it(request: Request) -> Reply | None:
        listing = request.path.rstrip("/") == "/dav/dir" and request.headers["depth"] == "1"
        return multistatus(*parts) if listing else None

    server = scripted(instead(dav, PROPFIND=list_it))
    storage = make(server)
    assert storage.listdir("dir") == ([], ["a.txt"])
    with pytest.raises(OSError, match="not empty"):
        storage.delete("dir")
    assert "DELETE" not in server.methods()


@pytest.mark.parametrize("times", [1, 2], ids=["an answer", "a session"])
def test_a_delete_that_was_done_is_done(make, scripted, times):
    """Its answer got lost; the second DELETE finds nothing."""
    dav = MemoryDAV({"a.txt": b"a"})
    lost: list[Request] = []

    def lose(request: Request) -> object:
        if len(lost) == times or request.path != "/dav/a.txt":
            return None
        lost.append(request)
        dav(request)
        return DROP

    storage = make(scripted(instead(dav, DELETE=lose)))
    assert storage.exists("a.txt")
    storage.delete("a.txt")
    assert dav.files == {}
    assert len(lost) == times


@pytest.mark.parametrize("status", [403, 423, 500, 207])
def test_a_delete_that_is_refused(make, scripted, status):
    dav = MemoryDAV({"a.txt": b"a"})
    storage = make(scripted(instead(dav, DELETE=Reply(status))))
    with pytest.raises(OSError, match=str(status)) as caught:
        storage.delete("a.txt")
    assert caught.value.filename == "a.txt"


# Naming


def test_move_does_not_overwrite(make, dav):
    storage = make(dav)
    storage.save("a.txt", ContentFile(b"a"))
    storage.save("dir/b.txt", ContentFile(b"b"))
    put(storage, "new", b"new")
    before = tree(disk(dav, storage))
    with storage.pool.connection() as session:
        # lighttpd moves it into a collection of that name: 201.
        for name in ("a.txt", "dir/b.txt", *(["dir"] if dav.name != "lighttpd" else [])):
            with pytest.raises(FileExistsError):
                session.rename(storage._path("new"), storage._path(name))
        assert tree(disk(dav, storage)) == before
        session.rename(storage._path("new"), storage._path("dir/c.txt"))
        session.rename(storage._path("a.txt"), storage._path("d.txt"))
    assert tree(disk(dav, storage)) == {
        "dir": None,
        "dir/b.txt": b"b",
        "dir/c.txt": b"new",
        "d.txt": b"a",
    }


def test_replacing_never_destroys_a_collection(make, dav):
    """rclone, WsgiDAV and sabre would; lighttpd would move the file into it."""
    storage = make(dav)
    storage.save("dir/sub/b.txt", ContentFile(b"b"))
    put(storage, "new", b"new")
    before = tree(disk(dav, storage))
    with storage.pool.connection() as session:
        for name in ("dir", "dir/sub"):
            with pytest.raises(IsADirectoryError):
                session.replace(storage._path("new"), storage._path(name))
        assert tree(disk(dav, storage)) == before
        session.replace(storage._path("new"), storage._path("dir/sub/b.txt"))
    assert tree(disk(dav, storage)) == {"dir": None, "dir/sub": None, "dir/sub/b.txt": b"new"}


def published(server: ScriptedHTTP) -> list[Request]:
    """The requests that were to give a file its final name."""
    return [r for r in server.requests if r.method == "MOVE" and TEMPORARY not in r.destination]


@pytest.mark.parametrize("status", [403, 404, 409, 500, 502])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_move_that_failed_but_was_done(make, scripted, status, overwrite):
    dav = MemoryDAV({"b.txt": b"old"})

    def lie(request: Request) -> Reply:
        dav(request)
        return Reply(status)

    server = scripted(instead(dav, MOVE=lie))
    storage = make(server, allow_overwrite=overwrite)
    assert storage.save("a.txt", ContentFile(b"a")) == "a.txt"
    if overwrite:
        assert storage.save("b.txt", ContentFile(b"b")) == "b.txt"
    assert dav.files == {"/dav/a.txt": b"a", "/dav/b.txt": b"b" if overwrite else b"old"}
    assert len(published(server)) == 1 + overwrite


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_move_whose_answer_got_lost(make, scripted, done, overwrite):
    """It is repeated, and the second answer is not believed without a look."""
    dav = MemoryDAV({"a.txt": b"old"} if overwrite else {})
    lost: list[Request] = []

    def lose(request: Request) -> object:
        if lost or request.destination != "/dav/a.txt":
            return None
        lost.append(request)
        if done:
            dav(request)
        return DROP

    server = scripted(instead(dav, MOVE=lose))
    storage = make(server, allow_overwrite=overwrite)
    assert storage.save("a.txt", ContentFile(b"new")) == "a.txt"
    assert dav.files == {"/dav/a.txt": b"new"}
    assert len(published(server)) == 2


@pytest.mark.parametrize("answer", [SILENCE, DROP])
@pytest.mark.parametrize("done", [True, False])
def test_a_session_that_is_lost_in_a_move(make, scripted, answer, done):
    """The next session looks whether the file has its name already."""
    dav = MemoryDAV()
    lost: list[Request] = []

    def lose(request: Request) -> object:
        if len(lost) == (1 if answer is SILENCE else 2):
            return None
        lost.append(request)
        if done and len(lost) == 1:
            dav(request)
        return answer

    server = scripted(instead(dav, MOVE=lose))
    storage = make(server, timeout=0.3)
    assert storage.save("a.txt", ContentFile(b"new")) == "a.txt"
    assert dav.files == {"/dav/a.txt": b"new"}


@pytest.mark.parametrize("status", [404, 412])
def test_a_repeated_move_finds_what_the_first_did(make, scripted, status):
    """Servers look at the target first, or at the source."""
    dav = MemoryDAV()
    lost: list[Request] = []

    def lose(request: Request) -> object:
        lost.append(request)
        if len(lost) > 1:
            return Reply(status)
        dav(request)
        return DROP

    assert make(scripted(instead(dav, MOVE=lose))).save("a.txt", ContentFile(b"a")) == "a.txt"
    assert dav.files == {"/dav/a.txt": b"a"}
    assert len(lost) == 2


def test_the_name_is_taken_in_the_last_moment(make, scripted):
    """Another name, the same upload."""
    dav = MemoryDAV()

    def intrude(request: Request) -> None:
        if request.destination == "/dav/a.txt":
            dav.files["/dav/a.txt"] = b"theirs"

    server = scripted(instead(dav, MOVE=intrude))
    name = make(server).save("a.txt", ContentFile(b"ours"))
    assert re.fullmatch(r"a_\w{7}\.txt", name)
    assert dav.files == {"/dav/a.txt": b"theirs", f"/dav/{name}": b"ours"}
    assert server.methods().count("PUT") == 1


@pytest.mark.parametrize("max_length", [None, 13])
def test_a_server_to_which_every_name_is_taken(make, scripted, max_length):
    """sabre/dav says so of all below a name that ends in a line break: no save loops for ever."""

    def taken(request: Request) -> Reply | None:
        if len(server.requests) > 3 * NAMES_TRIED:
            return Reply(404)
        return multistatus(response(request.target, "<D:resourcetype/>"))

    server = scripted()
    storage = make(server)
    assert storage.exists("") is True
    server.forget()
    server.script = instead(server.script, PROPFIND=taken)
    with pytest.raises(FileExistsError, match="save under another name") as caught:
        storage.save("a.txt", ContentFile(b"a"), max_length=max_length)
    assert caught.value.filename == "a.txt"
    assert server.methods() == ["PROPFIND"] * NAMES_TRIED
    # To ask once is no search.
    assert not any(storage.is_name_available("a.txt") for _ in range(2 * NAMES_TRIED))


@pytest.mark.parametrize("prefix", ["same", "other"])
@pytest.mark.parametrize("tls", [True, False])
def test_behind_a_proxy(make, scripted, dav, tls, prefix):
    """A proxy that ends TLS, or shows another prefix, leaves Destination as it is."""
    recorder = scripted(Forward(dav))
    path = urlsplit(dav.options["url"]).path
    proxy = NginxProxy(
        f"http://{recorder.host}:{recorder.port}{path}",
        tls=tls,
        prefix=path if prefix == "same" else "/other/place/",
        options=dav.options,
    )
    if reason := proxy.unavailable():
        pytest.skip(reason)
    with proxy:
        storage = make(proxy)
        folder = dav.root / storage.location
        assert storage.save("dir/a b.txt", ContentFile(b"a")) == "dir/a b.txt"
        assert tree(folder) == {"dir": None, "dir/a b.txt": b"a"}
        recorder.forget()
        # What the server understood is remembered.
        storage.save("dir/c.txt", ContentFile(b"c"))
        assert recorder.methods().count("MOVE") == 1
        assert storage.listdir("dir") in (([], ["a b.txt", "c.txt"]), ([], ["c.txt", "a b.txt"]))
        assert storage.listdir("") == (["dir"], [])
        assert read(storage, "dir/a b.txt") == b"a"
        assert storage.exists("dir")
        storage.delete("dir/a b.txt")
        assert tree(folder) == {"dir": None, "dir/c.txt": b"c"}
        # So is what it spares.
        warm_up(storage)
        assert habits(storage).delete_spares is (dav.name in SPARES_ON_DELETE)
        assert habits(storage).move_spares is (dav.name in SPARES_ON_MOVE)
        with pytest.raises(IsADirectoryError):
            storage.open("dir", "wb").close()
        with pytest.raises(OSError, match="not empty"):
            storage.delete("dir")
        recorder.forget()
        storage.delete("dir/c.txt")
        assert recorder.methods()[-1] == "DELETE"
        assert len(recorder.requests) == (1 if dav.name in SPARES_ON_DELETE else 2)
        assert tree(folder) == {"dir": None}


@pytest.mark.parametrize("understood", ["url", "path", "scheme"])
@pytest.mark.parametrize("status", [400, 403, 502])
def test_the_destination_that_a_server_understands(make, scripted, understood, status):
    dav = MemoryDAV()

    def understand(request: Request) -> Reply | None:
        kind = {"http": "url", "": "path", "https": "scheme"}
        given = kind[urlsplit(request.headers["destination"]).scheme]
        return None if given == understood else Reply(status)

    server = scripted(instead(dav, MOVE=understand))
    storage = make(server, username="u", password="secret")
    storage.save("a.txt", ContentFile(b"a"))
    tried = server.methods().count("MOVE")
    assert tried == {"url": 1, "path": 2, "scheme": 3}[understood]
    storage.save("b.txt", ContentFile(b"b"))
    assert server.methods().count("MOVE") == tried + 1
    assert dav.files == {"/dav/a.txt": b"a", "/dav/b.txt": b"b"}
    assert not any("secret" in r.headers.get("destination", "") for r in server.requests)


# What servers were found to do


def habits(storage: WebDAVStorage) -> Habits:
    """What is known of a storage's server now."""
    with storage.pool.connection() as session:
        return session._habits()


def in_scratch(request: Request) -> bool:
    """Whether a request concerns an experiment's collection, or what lies in it."""
    return re.search(r"/\.netstorage-[0-9a-f]{32}(/|$)", request.path) is not None


@pytest.mark.parametrize("name", ["dir", "dir/sub", "empty"])
def test_a_server_that_is_known_still_spares_collections(make, dav, name):
    """The one request that deletes a file, or moves one, is sent to a collection's name."""
    storage = make(dav, allow_overwrite=True)
    warm_up(storage)
    storage.save("dir/sub/a.txt", ContentFile(b"a"))
    folder = disk(dav, storage)
    (folder / "empty").mkdir()
    (folder / "dir" / "sub" / ".hidden").write_bytes(b"")
    before = tree(folder)
    known = habits(storage)
    assert known.delete_spares is (dav.name in SPARES_ON_DELETE)
    assert known.move_spares is (dav.name in SPARES_ON_MOVE)
    with pytest.raises(IsADirectoryError):
        storage.save(name, ContentFile(b"new"))
    assert tree(folder) == before
    if name != "empty":
        with pytest.raises(OSError, match="not empty"):
            storage.delete(name)
        assert tree(folder) == before
    assert habits(storage) is known


def test_an_apache_that_does_not_add_slashes(make, variant):
    """By its name and version one would think that it spares collections in a MOVE."""
    server = variant("apache-without-slashes")
    storage = make(server, allow_overwrite=True)
    warm_up(storage)
    for name in ("dir/a.txt", "index/index.html"):
        storage.save(name, ContentFile(b"a"))
    before = tree(disk(server, storage))
    for name in ("dir", "index"):
        with pytest.raises(IsADirectoryError):
            storage.save(name, ContentFile(b"new"))
        with pytest.raises(OSError, match=r"not empty|DirectoryIndex disabled"):
            storage.delete(name)
    assert tree(disk(server, storage)) == before
    assert (habits(storage).delete_spares, habits(storage).move_spares) == (True, False)


@pytest.mark.parametrize("careful", [True, False])
def test_experiments_leave_nothing(make, scripted, careful):
    dav = MemoryDAV({"a.txt": b"a", "b.txt": b"b"}, careful=careful)
    server = scripted(dav)
    storage = make(server, allow_overwrite=True)
    storage.save("a.txt", ContentFile(b"new"))
    storage.delete("b.txt")
    known = habits(storage)
    assert (known.move_spares, known.delete_spares) == (careful, careful)
    assert dav.files == {"/dav/a.txt": b"new"}
    assert dav.folders == {"/dav"}
    server.forget()
    dav.folders.add("/dav/dir")
    dav.files["/dav/dir/.hidden"] = b""
    with pytest.raises(OSError, match="not empty"):
        storage.delete("dir")
    with pytest.raises(IsADirectoryError):
        storage.save("dir", ContentFile(b"new"))
    storage.delete("a.txt")
    assert dav.files == {"/dav/dir/.hidden": b""}
    assert dav.folders == {"/dav", "/dav/dir"}
    assert [r for r in server.requests if r.method == "MKCOL"] == []
    first = "DELETE" if careful else "PROPFIND"
    assert next(r.method for r in server.requests if r.path == "/dav/a.txt") == first


EXPERIMENTS = {
    "remove": ["MKCOL", "PUT", "DELETE", "PROPFIND", "DELETE", "DELETE"],
    "replace": ["MKCOL", "PUT", "MKCOL", *["MOVE"] * 2, *["PROPFIND"] * 3, "DELETE"],
}
"""The requests of each, on a server that spares collections; the last removes the collection."""


@pytest.mark.parametrize("failure", ["403", "500", "302", "lost", "silent"])
@pytest.mark.parametrize(
    ("verb", "number"), [(verb, n) for verb, all_ in EXPERIMENTS.items() for n in range(len(all_))]
)
def test_an_experiment_that_fails_halfway(make, scripted, verb, number, failure, caplog):
    """Whatever becomes of one of its requests, nothing but its own names is touched."""
    theirs = {"/dav/b.txt": b"b", "/dav/dir/c.txt": b"c"}
    dav = MemoryDAV({"a.txt": b"old", "new.txt": b"new"})
    dav.files |= theirs
    dav.folders.add("/dav/dir")
    asked: list[Request] = []

    def fail(request: Request) -> object:
        if not in_scratch(request):
            return dav(request)
        asked.append(request)
        if failure.isdigit():
            return Reply(int(failure)) if len(asked) == number + 1 else dav(request)
        if failure == "silent":
            return SILENCE if len(asked) == number + 1 else dav(request)
        # The repeated request is lost, too.
        return DROP if len(asked) in {number + 1, number + 2} else dav(request)

    storage = make(scripted(fail), timeout=0.3 if failure == "silent" else 20.5)

    def act() -> Habits:
        with storage.pool.connection() as session:
            if verb == "remove":
                session.remove("a.txt")
            else:
                session.replace("new.txt", "a.txt")
            return session._habits()

    storage.exists("a.txt")
    last = number == len(EXPERIMENTS[verb]) - 1
    if failure.isdigit() or last:
        known = act()
    else:
        with pytest.raises((ConnectionLost, TimeoutError)):
            act()
        assert dav.files["/dav/a.txt"] == b"old"
        known = act()
    assert [r.method for r in asked[: number + 1]] == EXPERIMENTS[verb][: number + 1]
    rest = {name: data for name, data in dav.files.items() if TEMPORARY not in name}
    # Which of the two was asked for is done.
    assert rest == theirs | (
        {"/dav/new.txt": b"new"} if verb == "remove" else {"/dav/a.txt": b"new"}
    )
    left = {name for name in {*dav.files, *dav.folders} if TEMPORARY in name}
    found = known.delete_spares if verb == "remove" else known.move_spares
    if last and failure.isdigit():
        assert found is False
        assert f"could not remove the temporary collection {min(left)[5:]}" in caplog.text
    else:
        assert left == set()
        if not failure.isdigit():
            # The next session did it again; a removal, this one.
            assert found is True
        elif EXPERIMENTS[verb][number] not in {"DELETE", "MOVE"}:
            assert found is None


@pytest.mark.parametrize("status", [302, 423, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("verb", ["remove", "replace"])
def test_a_busy_server_does_not_pass_for_a_careful_one(make, scripted, verb, status):
    """Who answers so to an experiment does not tell what becomes of a collection."""
    dav = MemoryDAV({"a.txt": b"a", "new.txt": b"new"}, careful=False)
    busy = [True]

    def refuse(request: Request) -> object:
        """Refuse what is sent to a collection of an experiment."""
        to = request.path if request.method == "DELETE" else request.destination
        scratch = busy and TEMPORARY in to and to in dav.folders
        return Reply(status) if scratch and not request.target.endswith("/") else None

    storage = make(scripted(instead(dav, DELETE=refuse, MOVE=refuse)))

    def act(path: str) -> bool | None:
        with storage.pool.connection() as session:
            if verb == "remove":
                session.remove(path)
            else:
                session.replace("new.txt", path)
            known: Habits = session._habits()
        return known.delete_spares if verb == "remove" else known.move_spares

    assert act("a.txt") is None
    busy.clear()
    dav.folders.add("/dav/dir")
    dav.files |= {"/dav/dir/b.txt": b"b", "/dav/a.txt": b"a", "/dav/new.txt": b"new"}
    with pytest.raises(OSError, match="not empty" if verb == "remove" else "is a collection"):
        act("dir")
    assert dav.files["/dav/dir/b.txt"] == b"b"
    # The next session does the experiment again.
    with storage.pool.connection(exclusive=True):
        assert act("a.txt") is False
    assert not any(TEMPORARY in name for name in {*dav.files, *dav.folders})


@pytest.mark.parametrize("verb", ["remove", "replace"])
def test_a_server_that_makes_no_collections(make, scripted, verb):
    """It is asked once in a session, and looked at each time; the next session asks again."""
    dav = MemoryDAV(dict.fromkeys("abcdefgh", b""))
    refusal: list[Reply] = [Reply(507)]
    server = scripted(instead(dav, MKCOL=lambda request: refusal[0] if refusal else None))
    storage = make(server)

    def act(path: str) -> None:
        with storage.pool.connection() as session:
            session.remove(path) if verb == "remove" else session.replace(path, "h")

    for path in "abc":
        act(path)
    assert server.methods().count("MKCOL") == 1
    refusal.clear()
    with storage.pool.connection(exclusive=True):
        act("d")
    server.forget()
    act("e")
    assert server.methods() == ["DELETE" if verb == "remove" else "MOVE"]
    assert not any(TEMPORARY in name for name in {*dav.files, *dav.folders})


def test_another_server_at_the_same_address(make, scripted):
    """What was learned of the first is not believed of the second."""
    first = MemoryDAV({"a.txt": b"a", "b.txt": b"b"}, name="Careful/1.0")
    server = scripted(first)
    storage = make(server, allow_overwrite=True, pool={"max_lifetime": 3600})
    warm_up(storage)
    known = habits(storage)
    assert (known.server, known.delete_spares, known.move_spares) == ("Careful/1.0", True, True)
    assert known.stored_whole
    server.script = second = MemoryDAV({"dir/a.txt": b"a"}, name="Careless/1.0", careful=False)
    second.folders.add("/dav/dir")
    with storage.pool.connection(exclusive=True), storage.pool.connection() as session:
        assert session._habits() == Habits("Careless/1.0")
        with pytest.raises(OSError, match="not empty"):
            session.remove("dir")
        session.write("new.txt", io.BytesIO(b"new"), 3, None, None)
        with pytest.raises(IsADirectoryError):
            session.replace("new.txt", "dir")
    assert second.files == {"/dav/dir/a.txt": b"a", "/dav/new.txt": b"new"}
    # What a session to the first still finds out is not noted for the second.
    assert storage.pool.endpoint.notebook.of("Careless/1.0") is not known


def test_another_server_behind_a_session(make, scripted):
    """A proxy's, or that of a connection that was renewed: the next answer shows it."""
    server = scripted(MemoryDAV({"a.txt": b"a"}, name="Careful/1.0"))
    storage = make(server, allow_overwrite=True)
    warm_up(storage)
    assert habits(storage).delete_spares
    assert habits(storage).move_spares
    second = Forgetful({"dir/a.txt": b"a", "new.txt": b"new"}, name="Careless/1.0", careful=False)
    second.folders.add("/dav/dir")
    second.forgets = True
    server.script = second
    with storage.pool.connection() as session:
        # The answer to the upload itself is the first of the second server.
        with pytest.raises(OSError, match="holds 2 of 4 bytes"):
            session.write("short.txt", io.BytesIO(b"1234"), 4, None, None)
        with pytest.raises(OSError, match="not empty"):
            session.remove("dir")
        with pytest.raises(IsADirectoryError):
            session.replace("new.txt", "dir")
    assert storage.pool.stats().connects == 1
    assert second.files.keys() == {"/dav/dir/a.txt", "/dav/new.txt", "/dav/short.txt"}


@pytest.mark.parametrize("verb", ["remove", "replace"])
def test_another_server_in_the_middle_of_an_experiment(make, scripted, verb):
    """Nobody knows which of them it tells of."""
    first = MemoryDAV({"a.txt": b"a", "new.txt": b"new"}, name="Careful/1.0")

    def exchange(request: Request) -> Reply:
        if in_scratch(request) and request.target.endswith("/") and request.method == "DELETE":
            first.name = "Careless/1.0"
        return first(request)

    storage = make(scripted(exchange))
    with storage.pool.connection() as session:
        pages = [session._habits()]
        session.remove("a.txt") if verb == "remove" else session.replace("new.txt", "a.txt")
        pages.append(session._habits())
    assert [page.server for page in pages] == ["Careful/1.0", "Careless/1.0"]
    assert {(page.delete_spares, page.move_spares) for page in pages} == {(None, None)}


def test_what_was_learned_grows_old_in_a_session(make, scripted, monkeypatch):
    """A proxy does not tell that another server took the place of the first behind it."""
    later = [0.0]
    server = scripted(MemoryDAV({"a.txt": b"a"}))
    storage = make(server, allow_overwrite=True)
    notebook = storage.pool.endpoint.notebook
    monkeypatch.setattr(notebook, "_clock", lambda: time.monotonic() + later[0])
    warm_up(storage)
    assert habits(storage).delete_spares
    server.script = second = Forgetful({"dir/a.txt": b"a", "new.txt": b"new"}, careful=False)
    second.folders.add("/dav/dir")
    second.forgets = True
    later[0] = LIFETIME + 1
    with storage.pool.connection() as session:
        with pytest.raises(OSError, match="not empty"):
            session.remove("dir")
        with pytest.raises(IsADirectoryError):
            session.replace("new.txt", "dir")
        with pytest.raises(OSError, match="holds 2 of 4 bytes"):
            session.write("short.txt", io.BytesIO(b"1234"), 4, None, None)
    assert storage.pool.stats().connects == 1
    assert second.files.keys() == {"/dav/dir/a.txt", "/dav/new.txt", "/dav/short.txt"}


def test_what_was_learned_grows_old():
    now = 1000.0
    notebook = Notebook(lambda: now)
    known = notebook.of("Proxy/1.0")
    now += LIFETIME
    assert notebook.of("Proxy/1.0") is known
    now += 1
    assert notebook.of("Proxy/1.0") is not known
    assert notebook.of("Proxy/1.0") is notebook.of("Proxy/1.0")


def test_what_was_learned_is_no_part_of_the_endpoint(make, scripted):
    server = scripted()
    one, other = make(server, timeout=7), make(server, timeout=7)
    warm_up(one)
    assert one.pool is other.pool
    assert one._endpoint() == other.pool.endpoint
    assert hash(one._endpoint()) == hash(other.pool.endpoint)
    assert "otebook" not in repr(one.pool.endpoint)
    assert habits(other).delete_spares is True


def test_many_sessions_find_out_at_once(make, dav):
    storage = make(dav, allow_overwrite=True, pool={"max_size": 8})
    storage.save("0", ContentFile(b""))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: storage.save(str(n), ContentFile(b"x")), range(16)))
        list(threads.map(lambda n: storage.delete(str(n)), range(16)))
    assert tree(disk(dav, storage)) == {}
    assert habits(storage).delete_spares is (dav.name in SPARES_ON_DELETE)
    assert habits(storage).move_spares is (dav.name in SPARES_ON_MOVE)


def test_a_destination_that_is_no_longer_understood(make, scripted):
    """A proxy's settings changed: one save fails, and the next tries them all again."""
    dav = MemoryDAV()
    understood = ["http"]

    def understand(request: Request) -> Reply | None:
        scheme = urlsplit(request.headers["destination"]).scheme
        return None if scheme == understood[0] else Reply(502)

    storage = make(scripted(instead(dav, MOVE=understand)))
    storage.save("a.txt", ContentFile(b"a"))
    understood[0] = "https"
    with pytest.raises(OSError, match="502"):
        storage.save("b.txt", ContentFile(b"b"))
    assert storage.save("b.txt", ContentFile(b"b")) == "b.txt"
    assert dav.files == {"/dav/a.txt": b"a", "/dav/b.txt": b"b"}


# Reading


def test_ranges(make, dav):
    storage = make(dav)
    storage.save("a.bin", ContentFile(BIG))
    with storage.open("a.bin") as file:
        for start in (0, 2**20 + 1, len(BIG) - 5, 17, len(BIG), len(BIG) + 100):
            file.seek(start)
            assert file.read(1000) == BIG[start : start + 1000]
        assert file.size == len(BIG)
    with storage.pool.connection() as session:
        path = storage._path("a.bin")
        for start, stop in ((0, 1), (5, 5), (len(BIG) - 1, len(BIG) + 5), (len(BIG), None)):
            got = io.BytesIO()
            stat = session.read(path, start, stop, lambda _, data, got=got: got.write(data))
            if dav.name == "sabre" and stop == 1:
                # To "bytes=0-0" it sends all, which is cut off; no reader asks for so little.
                stop = got.tell()
            assert got.getvalue() == BIG[start:stop]
            assert stat.size in {len(BIG), None}


def test_empty_files(make, dav):
    """Apache sends no Content-Length for them on HEAD, and ranges of nothing are odd."""
    storage = make(dav)
    storage.save("empty", ContentFile(b""))
    assert storage.size("empty") == 0
    assert read(storage, "empty") == b""
    with storage.open("empty") as file:
        assert file.read(10) == b""
        assert file.size == 0
        assert list(file.chunks()) == []
    with storage.open("empty", "ab") as file:
        file.write(b"more")
    assert read(storage, "empty") == b"more"


def test_a_missing_file(make, dav):
    storage = make(dav)
    storage.save("a.txt", ContentFile(b""))
    for name in ("missing.txt", "missing/too.txt"):
        with pytest.raises(FileNotFoundError) as caught:
            read(storage, name)
        assert caught.value.filename == name


def test_ranges_on_a_compressing_apache(make, variant):
    storage = make(variant("apache-deflate"))
    data = b"compress me, please. " * 20_000
    storage.save("a.txt", ContentFile(data))
    assert storage.size("a.txt") == len(data)
    with storage.open("a.txt") as file:
        for start in (300_000, 0, 7):
            file.seek(start)
            assert file.read(100) == data[start : start + 100]
    assert read(storage, "a.txt") == data


def test_an_apache_that_calls_stored_bytes_encoded(make, variant):
    """AddEncoding speaks of the file as it is stored, and as it comes."""
    storage = make(variant("apache-encodings"))
    data = gzip.compress(BIG)
    storage.save("a.tar.gz", ContentFile(data))
    with storage.open("a.tar.gz") as file:
        for start in (300_000, 0, 7):
            file.seek(start)
            assert file.read(100) == data[start : start + 100]
    assert read(storage, "a.tar.gz") == data


@pytest.mark.parametrize("size", [1000, 400_000])
def test_an_apache_that_compresses_unasked(make, variant, size):
    server = variant("apache-deflate-always")
    storage = make(server, location="")
    (server.root / "a.txt").write_bytes(bytes(size))
    with storage.pool.connection() as session, pytest.raises(ProtocolError, match="encoded a"):
        session.read("a.txt", 0, None, lambda at, data: None)


@pytest.mark.parametrize(
    ("etag", "length"), [('"one-gzip"', 100), ('"one"', 90), (None, 100), ('"one"', None)]
)
def test_bytes_called_encoded_that_may_not_be_the_files(make, scripted, etag, length):
    """Only the stored file's length and ETag show that they are."""
    dav = MemoryDAV({"a.gz": b"x" * 100})
    dav.etag = lambda path: '"one"'
    headers = {"Content-Encoding": "gzip", **({"ETag": etag} if etag else {})}
    reply = Reply(200, headers, b"x" * (length or 100), length=length is not None)
    server = scripted(instead(dav, GET=reply))
    with make(server).open("a.gz") as file, pytest.raises(ProtocolError, match="encoded a file"):
        file.read()


def test_a_server_that_ignores_ranges(make, scripted):
    """200 is the whole, never the range."""
    dav = MemoryDAV({"a.bin": BIG})

    def whole(request: Request) -> Reply:
        return Reply(200, {"ETag": '"1"'}, BIG)

    server = scripted(instead(dav, GET=whole))
    with make(server).open("a.bin") as file:
        for start in (2**20, 5, len(BIG) - 5):
            file.seek(start)
            assert file.read(10) == BIG[start : start + 10]
    # It is all there after the first.
    assert server.methods().count("GET") == 1


def test_a_server_that_does_not_tell_the_length(make, scripted):
    server = scripted(instead(MemoryDAV({"a": BIG}), GET=Reply(200, {}, BIG, length=False)))
    with make(server).open("a") as file:
        assert file.read(10) == BIG[:10]
        assert file.size == len(BIG)
        assert file.read() == BIG[10:]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(206, {"Content-Range": "bytes 0-9/100"}, b"x" * 10), "another range"),
        (Reply(206, {"Content-Range": "bytes 60-99/100"}, b"x" * 40), "another range"),
        (Reply(206, {}, b"x" * 50), "without saying which"),
        (Reply(206, {"Content-Range": "lines 50-59/100"}, b"x" * 10), "without saying which"),
        (Reply(206, {"Content-Range": "bytes fifty"}, b"x" * 10), "without saying which"),
        (Reply(206, {"Content-Range": "bytes */100"}, b"x" * 10), "another range"),
        (
            Reply(
                206,
                {"Content-Type": "multipart/byteranges; boundary=b"},
                b"--b\r\nContent-Range: bytes 50-99/100\r\n\r\n" + b"x" * 50 + b"\r\n--b--\r\n",
            ),
            "without saying which",
        ),
        (Reply(200, {"Content-Encoding": "gzip"}, b"x" * 100), "encoded"),
        (
            Reply(206, {"Content-Encoding": "br", "Content-Range": "bytes 50-99/100"}, b"x" * 50),
            "encoded",
        ),
    ],
)
def test_answers_that_are_not_what_was_asked_for(make, scripted, reply, message):
    server = scripted(instead(MemoryDAV({"a": b"x" * 100}), GET=reply))
    storage = make(server)
    with storage.open("a") as file, pytest.raises(ProtocolError, match=message) as caught:
        file.seek(50)
        file.read(10)
    assert caught.value.filename == "a"
    # What is called encoded may be the file as it is stored: it is compared with that.
    assert server.methods().count("GET") == 1 + (message == "encoded")
    # A server that breaks the protocol gets a fresh session.
    assert storage.pool.stats().size == 0


def test_the_range_beyond_the_end(make, scripted):
    """416, with the length or without."""
    for headers in ({"Content-Range": "bytes */100"}, {}, {"Content-Range": "nonsense"}):
        server = scripted(instead(MemoryDAV({"a": b"x" * 100}), GET=Reply(416, headers)))
        with make(server).open("a") as file:
            file.seek(100)
            assert file.read(10) == b""


@pytest.mark.parametrize("length", [True, False])
def test_a_body_that_is_cut_is_fetched_again(make, scripted, length):
    data = random.Random(2).randbytes(100_000)
    dav = MemoryDAV({"a.bin": data})
    cut: list[Request] = []

    def cut_once(request: Request) -> Reply | None:
        if cut:
            return None
        cut.append(request)
        headers = {"Content-Range": f"bytes 0-8191/{len(data)}", "ETag": dav.etag("/dav/a.bin")}
        return Reply(206, headers, data[:8192], cut=5000, length=length)

    storage = make(scripted(instead(dav, GET=cut_once)))
    assert storage.exists("a.bin")
    with storage.open("a.bin") as file:
        assert file.read(10) == data[:10]
        assert file.read() == data[10:]


def test_a_body_that_is_always_cut(make, scripted):
    storage = make(scripted(instead(MemoryDAV({"a": b"x" * 100}), GET=Reply(200, {}, b"x", cut=0))))
    storage.exists("a")
    with pytest.raises(ConnectionLost) as caught:
        read(storage, "a")
    assert caught.value.filename == "a"


@pytest.mark.parametrize("headers", [{"ETag", "Last-Modified"}, {"ETag"}, {"Last-Modified"}, set()])
def test_a_file_that_changes_between_windows(make, scripted, headers):
    """By its ETag where there is one, else by its length."""
    dav = MemoryDAV({"a.bin": BIG})

    def get(request: Request) -> Reply:
        reply = dav(request)
        for name in {"ETag", "Last-Modified"} - headers:
            del reply.headers[name]
        return reply

    storage = make(scripted(instead(dav, GET=get)))
    with storage.open("a.bin") as file:
        assert file.read(10) == BIG[:10]
        dav.files["/dav/a.bin"] = BIG[::-1] if "ETag" in headers else BIG + b"!"
        with pytest.raises(FileChanged) as caught:
            file.read()
    assert caught.value.filename == "a.bin"


def test_a_file_that_changes_between_windows_on_a_real_server(make, dav):
    storage = make(dav, allow_overwrite=True)
    storage.save("a.bin", ContentFile(BIG))
    with storage.open("a.bin") as file:
        file.read(10)
        storage.save("a.bin", ContentFile(BIG[:-1]))
        with pytest.raises(FileChanged):
            file.read()


def test_a_weak_etag_of_the_first_second(make, scripted):
    """Apache's becomes strong later: it is the same file."""
    dav = MemoryDAV({"a.bin": BIG})
    marks = itertools.chain(["W/"], itertools.repeat(""))

    def get(request: Request) -> Reply:
        reply = dav(request)
        reply.headers["ETag"] = next(marks) + reply.headers["ETag"]
        return reply

    with make(scripted(instead(dav, GET=get))).open("a.bin") as file:
        assert file.read(10) == BIG[:10]
        assert file.read() == BIG[10:]


# Multistatus answers


@pytest.mark.parametrize(
    "href",
    [
        "/dav/d%c3%a9/",
        "/dav/d%C3%A9/",
        "/dav/dé",
        "http://127.0.0.1/dav/d%C3%A9/",
        "https://elsewhere.example.com:8443/dav/d%c3%a9/",
        "/backend/share/d%C3%A9/",
        "/d%C3%A9",
        "//dav//d%C3%A9//",
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_hrefs_of_any_form(make, scripted, href, mixed):
    """Other quoting than ours, absolute URLs, and what a backend thinks its prefix is."""
    base = href.rstrip("/")
    if mixed:
        # Encoded in one way here and in another there.
        base = base.replace("%C3%A9", "%c3%a9").replace("é", "%C3%A9")
    listing = multistatus(
        response(href, COLLECTION),
        response(f"{base}/a%2Bb%20%c3%bc.txt", "<D:resourcetype/>"),
        response(f"{base}/sub/", COLLECTION),
        response(f"{base}/c+d.txt", "<D:resourcetype/>"),
    )
    storage = make(
        scripted(instead(MemoryDAV(), PROPFIND=lambda r: listing if "%" in r.target else None))
    )
    assert storage.listdir("dé") == (["sub"], ["a+b ü.txt", "c+d.txt"])


def test_entries_that_are_no_names(make, scripted):
    """Nothing outside of the collection becomes a name inside of it."""
    listing = multistatus(
        response("/dav/", COLLECTION),
        response("/dav/../", COLLECTION),
        response("/dav/%2e%2e/", COLLECTION),
        response("/dav/%2E", COLLECTION),
        response("/dav/a%2Fb", "<D:resourcetype/>"),
        response("/dav/%00", "<D:resourcetype/>"),
        response("/dav/a%00b", "<D:resourcetype/>"),
        response("http://elsewhere.example/etc/passwd", "<D:resourcetype/>"),
        response("//elsewhere.example/dav%2Fpasswd", "<D:resourcetype/>"),
        response("/dav/..%2F..%2Fetc%2Fpasswd", "<D:resourcetype/>"),
        response("/dav/sub/deep.txt", "<D:resourcetype/>"),
        response("/other/file.txt", "<D:resourcetype/>"),
        response("/etc/", COLLECTION),
        response("/dav/good.txt", "<D:resourcetype/>"),
    )
    storage = make(scripted(instead(MemoryDAV(), PROPFIND=listing)))
    assert storage.listdir("") == ([], ["good.txt"])


def test_entries_with_a_status_of_their_own(make, scripted):
    """One that went away during the listing is no entry; one that may not be looked at is."""
    status = "<D:response><D:href>/dav/{}</D:href><D:status>HTTP/1.1 {}</D:status></D:response>"
    listing = multistatus(
        response("/dav/", COLLECTION),
        status.format("gone.txt", "404 Not Found"),
        status.format("secret.txt", "403 Forbidden"),
        response("/dav/good.txt", "<D:resourcetype/>"),
    )
    storage = make(scripted(instead(MemoryDAV(), PROPFIND=listing)))
    assert storage.listdir("") == ([], ["secret.txt", "good.txt"])
    with storage.pool.connection() as session:
        told = {entry.name: entry.stat for entry in session.listdir("", details=True)}
    assert told == {"secret.txt": None, "good.txt": Stat()}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("404 Not Found", FileNotFoundError),
        ("410 Gone", FileNotFoundError),
        ("403 Forbidden", PermissionError),
        ("423 Locked", OSError),
    ],
)
def test_a_status_in_place_of_properties(make, scripted, status, kind):
    reply = multistatus(
        f"<D:response><D:href>/dav/a</D:href><D:status>HTTP/1.1 {status}</D:status></D:response>"
    )
    script = instead(MemoryDAV(), PROPFIND=lambda r: reply if r.target == "/dav/a" else None)
    storage = make(scripted(script))
    with pytest.raises(kind) as caught:
        storage.size("a")
    assert caught.value.filename == "a"
    assert caught.value.errno
    if kind is FileNotFoundError:
        assert not storage.exists("a")
    else:
        with pytest.raises(kind):
            storage.exists("a")


def test_values_of_another_status_do_not_count(make, scripted):
    reply = multistatus(
        response(
            "/dav/a",
            "<D:getcontentlength>5</D:getcontentlength>",
            COLLECTION,
            status="HTTP/1.1 404 Not Found",
        )
    )
    script = instead(MemoryDAV(), PROPFIND=lambda r: reply if r.target == "/dav/a" else None)
    storage = make(scripted(script))
    with pytest.raises(OSError, match="does not tell") as caught:
        storage.size("a")
    assert caught.value.errno == errno.ENOTSUP


LIGHTTPD_LIKE = b'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response></D:multistatus>'
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (c + 1, b"&%c;" % c * 10) for c in range(97, 110))
    + b']><D:multistatus xmlns:D="DAV:"><D:response><D:href>&n;</D:href></D:response>'
    b"</D:multistatus>"
)

GZIP_BOMB = gzip.compress(b'<D:multistatus xmlns:D="DAV:">' + b" " * 2**26)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (LIGHTTPD_LIKE, "malformed XML: mismatched tag"),
        (b"", "malformed XML"),
        (b"<html><body>It works!</body></html>", "a document of <html>"),
        (BOMB, "document type"),
        (b'<D:multistatus xmlns:D="DAV:"><!--' + b"x" * 2**21, "a response without end"),
        (b'<D:multistatus xmlns:D="DAV:">' + b"<x>" * 2**19, "a response without end"),
        (b'<!DOCTYPE x SYSTEM "http://127.0.0.1:1/"><x/>', "document type"),
    ],
    ids=["malformed", "empty", "html", "bomb", "endless", "deep", "dtd"],
)
def test_an_answer_that_is_no_multistatus(make, scripted, body, message):
    for broken in ("/dav/", "/dav/a"):
        script = instead(
            MemoryDAV({"a": b""}),
            PROPFIND=lambda r, broken=broken: Reply(207, {}, body) if r.target == broken else None,
        )
        storage = make(scripted(script))
        with pytest.raises(OSError, match=message) as caught:
            storage.exists("a")
        kind = ConnectError if broken == "/dav/" else ProtocolError
        assert isinstance(caught.value, kind)
        assert caught.value.filename == "a"


LIES: dict[str, tuple[str, object]] = {
    "head-endless": ("PROPFIND", b"HTTP/1.1 207 OK\r\nX-A: " + b"a" * 2**20),
    "heads-endless": ("PROPFIND", b"HTTP/1.1 207 OK\r\n" + b"X-A: a\r\n" * 2**16),
    "status-odd": ("PROPFIND", b"HTTP/1.1 2\xb07 OK\r\n\r\n"),
    "status-long": ("PROPFIND", b"HTTP/1.1 " + b"9" * 50_000 + b" OK\r\n\r\n"),
    "status-none": ("PROPFIND", b"HTTP/1.1 999999 OK\r\n\r\n"),
    "length-negative": ("PROPFIND", b"HTTP/1.1 207 OK\r\nContent-Length: -1\r\n\r\n"),
    "length-huge": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 30 + b"\r\n\r\nx"),
    "lengths-two": (
        "GET",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ),
    "chunk-huge": (
        "PROPFIND",
        b"HTTP/1.1 207 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx",
    ),
    "chunk-odd": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    ),
    "gzip-bomb": ("PROPFIND", Reply(207, {"Content-Encoding": "gzip"}, GZIP_BOMB)),
    "gzip-of-gzip": ("PROPFIND", Reply(207, {"Content-Encoding": "gzip, gzip, gzip"}, GZIP_BOMB)),
    "gzip-file": ("GET", Reply(200, {"Content-Encoding": "gzip"}, GZIP_BOMB)),
    "gzip-refusal": ("PROPFIND", Reply(500, {"Content-Encoding": "gzip"}, GZIP_BOMB)),
    "range-odd": ("GET", Reply(206, {"Content-Range": "bytes 5--1/-9"}, b"x")),
    "bomb": ("PROPFIND", Reply(207, {}, BOMB)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies(make, scripted, monkeypatch, lie):
    """One of our errors, in bounded memory; a connection that lied is not used again."""
    method, answer = LIES[lie]
    lies: list[bool] = []
    dav = MemoryDAV({"a.bin": BIG})
    server = scripted(instead(dav, **{method: lambda r: answer if lies else None}))
    storage = make(server, timeout=5)
    assert read(storage, "a.bin") == BIG
    lies.append(True)
    tracemalloc.start()
    try:
        with pytest.raises((ProtocolError, ConnectionLost, OSError)) as caught:
            storage.exists("a.bin") if method == "PROPFIND" else read(storage, "a.bin")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.filename == "a.bin"
    assert len(str(caught.value)) < 1000
    assert peak < 2**24
    lies.clear()
    # Should the lie have kept another session from being opened, the pause after it is over.
    monkeypatch.setattr(storage.pool, "_clock", lambda: time.monotonic() + 60)
    assert read(storage, "a.bin") == BIG
    assert storage.exists("a.bin")
    # A status is a verdict, which keeps the session.
    assert (storage.pool.stats().closed_broken == 0) is (lie == "gzip-refusal")


def test_a_listing_without_end(make, scripted, monkeypatch):
    monkeypatch.setattr("netstorage.webdav.multistatus.LONGEST_LISTING", 2**18)
    listing = multistatus(
        response("/dav/", COLLECTION),
        *(response(f"/dav/{number:06}", "<D:resourcetype/>") for number in range(2000)),
    )
    dav = MemoryDAV({"a": b""})
    endless = instead(dav, PROPFIND=lambda r: listing if r.headers["depth"] == "1" else None)
    storage = make(scripted(endless))
    with pytest.raises(ProtocolError, match="a listing without end") as caught:
        storage.listdir("")
    assert caught.value.filename == ""
    assert storage.exists("a")
    assert storage.pool.stats().closed_broken == 1


def test_a_part_without_end(make, scripted):
    """What was asked for is right; the rest is not waited for."""
    body = random.Random(7).randbytes(2**24)
    head = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
    honest = MemoryDAV({"a.bin": b"", "b": b"b"})
    script = instead(
        honest, GET=lambda r: Reply(206, head, body, length=False) if "a.bin" in r.target else None
    )
    storage = make(scripted(script))
    with storage.open("a.bin") as file:
        assert file.read(10) == body[:10]
        assert file._ranges._spool.size() < 2**18
    assert read(storage, "b") == b"b"


def test_a_broken_answer_is_asked_for_once_more(make, scripted):
    """rclone ends it with an error in plain text when an upload begins while it lists."""
    dav = MemoryDAV({"a": b""})
    broken: list[Request] = []

    def break_off(request: Request) -> Reply | None:
        if request.target != "/dav/" or request.headers["depth"] == "0" or broken:
            return None
        broken.append(request)
        reply = dav(request)
        reply.body += b"Internal Server Error"
        return reply

    server = scripted(instead(dav, PROPFIND=break_off))
    storage = make(server)
    assert storage.listdir("") == ([], ["a"])
    assert server.methods() == ["PROPFIND"] * 3


def test_a_long_listing_takes_little_memory(make, scripted):
    count = 20_000
    names = [f"{number:06d}.txt" for number in range(count)]
    parts = [response(f"/dav/{name}", "<D:resourcetype/>") for name in names]
    listing = multistatus(response("/dav/", COLLECTION), *parts)
    storage = make(
        scripted(
            instead(MemoryDAV(), PROPFIND=lambda r: listing if r.headers["depth"] == "1" else None)
        )
    )
    storage.exists("x")
    tracemalloc.start()
    try:
        directories, files = storage.listdir("")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert directories == []
    assert files == names
    # The answer, 3.4 MB here and three times that with all properties, is never held as a whole;
    # what it says of an entry is, until all entries are there.
    assert peak - held < count * 600


# Without PROPFIND


def test_an_index_file_is_no_collection(make, dav):
    """mod_dir lets Apache ask index.html in the place of the collection that holds it."""
    storage = make(dav)
    storage.save("dir/first", ContentFile(b""))
    warm_up(storage)
    storage.delete("dir/first")
    for name in ("index.html", "dir/index.html", "dir/a.txt"):
        assert storage.save(name, ContentFile(b"index")) == name
    assert storage.save("dir/big.bin", ContentFile(BIG)) == "dir/big.bin"
    for name in ("", "dir", "dir/index.html"):
        assert storage.exists(name)
    assert not storage.exists("missing")
    assert read(storage, "dir/index.html") == b"index"
    if dav.name == "apache":
        with pytest.raises(OSError, match="set DirectoryIndex disabled") as caught:
            storage.listdir("dir")
        assert caught.value.errno == errno.ENOTSUP
    else:
        assert sorted(storage.listdir("dir")[1]) == ["a.txt", "big.bin", "index.html"]
    before = tree(disk(dav, storage))
    with pytest.raises(OSError, match=r"not empty|DirectoryIndex disabled"):
        storage.delete("dir")
    assert tree(disk(dav, storage)) == before


def test_an_index_file_in_the_root(make, dav):
    """It does not turn an Apache into a server without PROPFIND."""
    top = make(dav)
    top.save("index.html", ContentFile(b"index"))
    storage = make(dav, url=f"{dav.options['url']}{top.location}", location="")
    storage.save("dir/a.txt", ContentFile(b"a"))
    assert storage.listdir("dir") == ([], ["a.txt"])
    assert read(storage, "index.html") == b"index"


def test_nginx_without_its_module(make, variant):
    """HEAD tells enough for files."""
    server = variant("nginx-plain")
    storage = make(server)
    folder = disk(server, storage)
    assert storage.save("dir/a.txt", ContentFile(b"content")) == "dir/a.txt"
    assert storage.save("big.bin", ContentFile(BIG)) == "big.bin"
    assert storage.save("empty", ContentFile(b"")) == "empty"
    assert storage.save("empty", ContentFile(b"")) != "empty"
    assert storage.exists("dir/a.txt")
    assert storage.exists("dir")
    assert not storage.exists("missing")
    assert not storage.exists("dir/a.txt/below")
    assert storage.size("dir/a.txt") == 7
    assert storage.size("empty") == 0
    assert storage.get_modified_time("dir/a.txt")
    assert read(storage, "dir/a.txt") == b"content"
    with storage.open("big.bin") as file:
        file.seek(2**20)
        assert file.read(10) == BIG[2**20 : 2**20 + 10]
    with pytest.raises(FileNotFoundError):
        storage.size("missing")
    with pytest.raises(FileNotFoundError):
        read(storage, "missing")
    with pytest.raises(IsADirectoryError):
        read(storage, "dir")
    with pytest.raises(IsADirectoryError):
        storage.size("dir")
    with pytest.raises(FileExistsError):
        storage.save("dir/a.txt/below", ContentFile(b""))
    with pytest.raises(OSError, match="cannot list") as caught:
        storage.listdir("dir")
    assert caught.value.errno == errno.ENOTSUP
    assert caught.value.filename == "dir"
    (folder / "dir" / ".hidden").write_bytes(b"")
    with pytest.raises(OSError, match="nobody can tell whether the collection is empty") as caught:
        storage.delete("dir")
    assert caught.value.errno == errno.ENOTSUP
    storage.delete("dir/a.txt")
    storage.delete("missing")
    storage.delete("missing/too")
    assert sorted(path.name for path in (folder / "dir").iterdir()) == [".hidden"]
    assert list(folder.rglob(TEMPORARY + "*")) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_saving_on_nginx_without_its_module(make, variant, overwrite):
    storage = make(variant("nginx-plain"), allow_overwrite=overwrite)
    names = [storage.save("a.txt", ContentFile(data)) for data in (b"one", b"two")]
    assert len(set(names)) == (1 if overwrite else 2)
    assert read(storage, names[-1]) == b"two"
    assert storage.exists("")


def test_head_without_a_length_tells_nothing(make, scripted):
    """Apache and sabre leave it out for empty files: unknown, not 0."""
    dav = MemoryDAV({"a": b"four"})
    head = Reply(200, {"Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}, length=False)
    storage = make(scripted(instead(dav, PROPFIND=Reply(405), HEAD=head)))
    assert storage.exists("a")
    with pytest.raises(OSError, match="does not tell the file's size") as caught:
        storage.size("a")
    assert caught.value.errno == errno.ENOTSUP
    assert storage.get_modified_time("a").year == 1970
    with storage.open("a") as file:
        assert file.size == 4
        assert file.read() == b"four"


# Credentials


def test_digest(make, variant):
    server = variant("apache-digest")
    storage = make(server)
    everything(storage)
    with pytest.raises(AuthenticationError, match=r"401.*username, password"):
        make(server, password="wrong").exists("a")
    with pytest.raises(AuthenticationError):
        make(server, auth="basic").exists("a")


def test_digest_when_an_upload_comes_first(make, variant, monkeypatch):
    """The body is sent to be refused, then once more from its beginning."""
    server = variant("apache-digest")
    storage = make(server)
    folder = disk(server, storage)
    monkeypatch.setattr(endpoint_module.WebDAVEndpoint, "_start", lambda self, session: None)
    put(storage, "a.bin", BIG)
    assert tree(folder) == {"a.bin": BIG}


def test_digest_when_the_nonce_is_stale(make, variant):
    """A new Apache does not know the nonces of the old one."""
    server = variant("apache-digest")
    storage = make(server)
    storage.save("a.txt", ContentFile(b"a"))
    server.restart()
    storage.save("b.bin", ContentFile(BIG))
    assert tree(disk(server, storage)) == {"a.txt": b"a", "b.bin": BIG}


def test_digest_with_a_nonce_for_each_request(make, scripted):
    dav = MemoryDAV()
    nonces = itertools.count(1)
    valid = ""

    def guard(request: Request) -> Reply:
        nonlocal valid
        given = re.search(r'nonce="([^"]*)"', request.headers.get("authorization", ""))
        if given and given[1] == valid:
            valid = ""
            return dav(request)
        valid = f"n{next(nonces)}"
        stale = ", stale=true" if given else ""
        challenge = f'Digest realm="r", nonce="{valid}", algorithm=MD5, qop="auth"{stale}'
        return Reply(401, {"WWW-Authenticate": challenge})

    server = scripted(guard)
    storage = make(server, username="u", password="secret", auth="digest")
    storage.save("a.bin", ContentFile(BIG))
    assert dav.files == {"/dav/a.bin": BIG}
    assert read(storage, "a.bin") == BIG
    assert not any("secret" in str(request.headers) for request in server.requests)


def test_basic(make, scripted):
    server = scripted()
    storage = make(server, username="ü", password="pässwörd")
    storage.exists("a")
    assert {r.headers["authorization"] for r in server.requests} == {
        "Basic w7w6cMOkc3N3w7ZyZA=="  # in UTF-8 (RFC 7617)
    }


def test_a_bearer_token_and_headers(make, scripted):
    server = scripted()
    storage = make(server, token="t0ken", headers={"X-Requested-With": "tests", "OCS": "1"})
    everything(storage)
    for request in server.requests:
        assert request.headers["authorization"] == "Bearer t0ken"
        assert request.headers["x-requested-with"] == "tests"
        assert request.headers["ocs"] == "1"


@pytest.mark.parametrize("option", ["password", "token"])
def test_secrets_may_be_callables(make, scripted, option):
    """Asked once for each session, so that they may change."""
    server = scripted()
    calls = itertools.count(1)
    storage = make(server, username="u", **{option: lambda: f"secret{next(calls)}"})
    storage.exists("a")
    storage.exists("a")
    assert next(calls) == 2
    storage.pool.drain()
    storage.exists("a")
    assert len({request.headers["authorization"] for request in server.requests}) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"token": "s3cret\n"},
        {"token": "s3cret\r\nX-Evil: 1"},
        {"token": "s3cret€"},
        {"headers": {"X-Key": "s3cret\n"}},
        {"headers": {"X-Key": "s3cret€"}},
        {"headers": {"X-Key\n": "s3cret"}},
    ],
)
def test_secrets_that_no_header_can_hold(make, scripted, options):
    """As read from a file with its line's end: refused, without being shown."""
    server = scripted()
    with pytest.raises(ConnectError) as caught:
        make(server, **options).exists("a")
    error: BaseException | None = caught.value
    assert "token" in str(error) or "headers" in str(error)
    while error is not None:
        assert "s3cret" not in str(error)
        error = error.__cause__
    assert server.requests == []


@pytest.mark.parametrize("method", ["PROPFIND", "GET", "PUT", "MOVE", "DELETE"])
def test_credentials_that_are_refused_later(make, scripted, method):
    dav = MemoryDAV({"a.txt": b"a"})
    revoked: list[bool] = []
    storage = make(
        scripted(instead(dav, **{method: lambda r: Reply(401) if revoked else None})),
        username="u",
        password="s3cret",
    )
    assert storage.exists("a.txt")
    revoked.append(True)
    use: dict[str, Callable[[], object]] = {
        "PROPFIND": lambda: storage.exists("a.txt"),
        "GET": lambda: read(storage, "a.txt"),
        "PUT": lambda: storage.save("b.txt", ContentFile(b"b")),
        "MOVE": lambda: storage.save("b.txt", ContentFile(b"b")),
        "DELETE": lambda: storage.delete("a.txt"),
    }
    with pytest.raises(AuthenticationError, match=r"401.*options username") as caught:
        use[method]()
    assert "s3cret" not in str(caught.value)
    assert caught.value.filename in {"a.txt", "b.txt"}
    assert storage.pool.stats().in_use == 0


# Where requests go


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["root", "PROPFIND", "GET", "PUT", "MOVE", "DELETE", "MKCOL"])
def test_redirects_are_not_followed(make, scripted, method, status):
    """Neither requests nor credentials reach another host."""
    elsewhere = scripted()
    dav = MemoryDAV({"a.txt": b"a"})

    def away(request: Request) -> Reply | None:
        if request.target == "/dav/" and method != "root":
            return None
        return Reply(status, {"Location": f"{elsewhere.url}moved?u=secret"})

    server = scripted(instead(dav, **{"PROPFIND" if method == "root" else method: away}))
    storage = make(server, username="u", password="s3cret", headers={"X-Token": "s3cret"})
    use: dict[str, Callable[[], object]] = {
        "root": lambda: storage.exists("a.txt"),
        "PROPFIND": lambda: storage.exists("a.txt"),
        "GET": lambda: read(storage, "a.txt"),
        "PUT": lambda: storage.save("b.txt", ContentFile(b"b")),
        "MOVE": lambda: storage.save("b.txt", ContentFile(b"b")),
        "DELETE": lambda: storage.delete("a.txt"),
        "MKCOL": lambda: storage.save("new/b.txt", ContentFile(b"b")),
    }
    expected = (ProtocolError, FileNotFoundError) if method == "MKCOL" else ProtocolError
    kind = ConnectError if method == "root" else expected
    with pytest.raises(kind) as caught:
        use[method]()
    assert "redirects are not followed, set the option url" in str(caught.value)
    assert f"points to {elsewhere.url}moved" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert elsewhere.connections == 0


@pytest.mark.parametrize("location", ["http://[broken/", "//", "", ":::", "/dav/a.txt"])
def test_redirects_to_nowhere(make, scripted, location):
    server = scripted(instead(MemoryDAV({"a.txt": b""}), GET=Reply(302, {"Location": location})))
    storage = make(server)
    storage.exists("a.txt")
    with pytest.raises((ProtocolError, ConnectionLost, IsADirectoryError)):
        read(storage, "a.txt")


def test_the_environment_has_no_say(make, scripted, monkeypatch, tmp_path):
    """Neither proxies nor credentials nor certificates come from it."""
    server, proxy = scripted(), scripted()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password thief\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_bytes(netrc.read_bytes())
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for each in (name, name.lower()):
            monkeypatch.setenv(each, f"http://{proxy.host}:{proxy.port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    everything(make(server))
    assert proxy.connections == 0
    assert not [r for r in server.requests if "authorization" in r.headers]


def test_an_http_proxy(make, scripted):
    proxy = scripted()
    storage = make(
        url="http://nas.invalid/dav/", proxy=f"http://{proxy.host}:{proxy.port}", token="t"
    )
    everything(storage)
    assert all(r.target.startswith("http://nas.invalid/dav/") for r in proxy.requests)
    assert {r.headers["host"] for r in proxy.requests} == {"nas.invalid"}
    assert proxy.connections == 1


def test_a_proxy_for_tls(make, scripted, variant):
    server = variant("apache-tls")
    passes = "Basic dTpwcm94eXNlY3JldA=="

    def tunnel(request: Request) -> object:
        if request.headers.get("proxy-authorization") != passes:
            return Reply(407)
        return Tunnel(server.host, server.port)

    proxy = scripted(tunnel)
    url = f"http://u:proxysecret@{proxy.host}:{proxy.port}"
    everything(make(server, proxy=url))
    assert [r.method for r in proxy.requests] == ["CONNECT"]
    assert proxy.requests[0].target == f"{server.host}:{server.port}"
    wrong = make(server, proxy=url.replace("proxysecret", "wr0ng"))
    with pytest.raises(ConnectError, match="407") as caught:
        wrong.exists("a")
    assert "wr0ng" not in str(caught.value) + repr(wrong) + repr(wrong.pool)


# Connections that end


def closed_by_server(storage: WebDAVStorage) -> None:
    """Wait until the server has closed the idle session's connection."""
    with storage.pool.connection() as session:
        [sock] = session._http._sockets
        readable, _, _ = select.select([sock], [], [], 10)
        assert readable, "still open"


def test_apache_closes_idle_connections(make, variant):
    storage = make(variant("apache-impatient"))
    storage.save("a.txt", ContentFile(b"a"))
    for use in (
        lambda: storage.exists("a.txt"),
        lambda: read(storage, "a.txt"),
        lambda: storage.listdir(""),
        lambda: storage.save("b.bin", ContentFile(BIG)),
        lambda: storage.delete("b.bin"),
    ):
        closed_by_server(storage)
        use()
    assert storage.listdir("") == ([], ["a.txt"])


def test_a_server_that_closes_after_each_answer(make, scripted):
    """And does not say so."""
    dav = MemoryDAV()

    def close(request: Request) -> Reply:
        reply = dav(request)
        reply.close = True
        return reply

    server = scripted(close)
    storage = make(server)
    everything(storage)
    assert server.connections == len(server.requests)


def test_a_server_that_drops_each_second_request(make, scripted):
    """The client cannot know: it sends while the end of the connection is on its way.

    Long uploads are spared here: only the storage repeats them, on another session.
    """
    dav = MemoryDAV()
    served: set[int] = set()

    def once(request: Request) -> object:
        if request.connection in served and len(request.body) < 2**16:
            return DROP
        served.add(request.connection)
        return dav(request)

    server = scripted(once)
    storage = make(server)
    everything(storage)
    assert storage.listdir("dir")[1] == ["big.bin", "stream.bin"]
    assert server.methods().count("MOVE") > 0


def test_every_server_may_restart(make, dav):
    storage = make(dav)
    storage.save("a.txt", ContentFile(b"a"))
    dav.restart()
    assert storage.exists("a.txt")
    dav.restart()
    storage.save("b.txt", ContentFile(b"b"))
    assert sorted(storage.listdir("")[1]) == ["a.txt", "b.txt"]


# Connections that never come, or say nothing


@pytest.mark.parametrize("method", ["PROPFIND", "GET", "PUT", "MOVE", "DELETE"])
def test_a_silent_server(make, scripted, method):
    dav = MemoryDAV({"a.txt": b"a"})
    silent: list[bool] = []
    server = scripted(instead(dav, **{method: lambda r: SILENCE if silent else None}))
    storage = make(server, timeout=0.2)
    storage.exists("a.txt")
    silent.append(True)
    use: dict[str, Callable[[], object]] = {
        "PROPFIND": lambda: storage.exists("a.txt"),
        "GET": lambda: read(storage, "a.txt"),
        "PUT": lambda: storage.save("b.txt", ContentFile(b"b")),
        "MOVE": lambda: storage.save("b.txt", ContentFile(b"b")),
        "DELETE": lambda: storage.delete("a.txt"),
    }
    with pytest.raises(TimeoutError, match=r"0\.2 s \(timeout\)") as caught:
        use[method]()
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.filename in {"a.txt", "b.txt"}


def test_a_server_that_stops_reading(make, scripted):
    server = scripted(early=instead(lambda r: None, PUT=SILENCE))
    with pytest.raises(TimeoutError, match=r"did not take what was sent within 0\.2 s \(timeout\)"):
        make(server, timeout=0.2).save("a.bin", ContentFile(BIG * 5))


def test_a_server_that_stops_in_the_middle(make, scripted):
    dav = MemoryDAV({"a": b""})

    def half(request: Request) -> object:
        return None if request.target == "/dav/" else Reply(207, {"Content-Length": "999"}, b"<x")

    storage = make(scripted(instead(dav, PROPFIND=half)), timeout=0.2)
    with pytest.raises(TimeoutError, match=r"\(timeout\)"):
        storage.exists("a")


def test_a_server_that_is_silent_from_the_start(make, scripted):
    storage = make(scripted(lambda request: SILENCE), timeout=0.2)
    with pytest.raises(ConnectError, match=r"0\.2 s \(timeout\)") as caught:
        storage.exists("a")
    assert caught.value.filename == "a"


def test_a_refused_connection(make):
    storage = make(url=f"http://127.0.0.1:{free_port()}/dav/")
    with pytest.raises(ConnectError, match=r"refuses connections\. Is the server running"):
        storage.exists("a")


def test_a_host_without_an_address(make):
    with pytest.raises(ConnectError, match=r"http://nas\.invalid/dav/ cannot be reached"):
        make(url="http://nas.invalid/dav/").exists("a")


def test_a_host_that_does_not_take_connections(make):
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            # The queue is full: what comes now is left waiting.
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/dav/"
        with pytest.raises(ConnectError, match=r"within 0\.2 s \(connect_timeout\)"):
            make(url=url, connect_timeout=0.2).exists("a")


def test_a_host_that_takes_no_connections_any_more(make):
    """The HTTP client opens a new connection in the middle of a session: that has its own bound."""
    root = multistatus(response("/dav/", COLLECTION)).body
    head = b"HTTP/1.1 207 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(root)

    def serve_one(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(head + root)

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        thread = threading.Thread(target=serve_one, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/dav/"
        storage = make(url=url, connect_timeout=0.2, timeout=5)
        with storage.pool.connection() as session:
            thread.join()
            for _ in range(4):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(listener.getsockname())
            match = r"did not accept a connection within 0\.2 s \(connect_timeout\)"
            with pytest.raises(TimeoutError, match=match):
                session.stat("a")


# The wrong URL


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (Reply(200, {}, b"<html>Welcome</html>"), ConnectError, "does not answer as a WebDAV"),
        (Reply(404), ConnectError, "does not exist on the server"),
        (Reply(401), AuthenticationError, "refused the credentials"),
        (Reply(403), AuthenticationError, "may not be used with these credentials"),
        (Reply(500), ConnectError, "does not answer as a WebDAV server: .*500"),
        (Reply(502), ConnectError, "does not answer as a WebDAV server: .*502"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ConnectError, "cannot be reached"),
        (DROP, ConnectError, "cannot be reached"),
        (
            multistatus(response("/dav/", "<D:resourcetype/>")),
            ConnectError,
            "is a file",
        ),
        (
            multistatus(
                "<D:response><D:href>/dav/</D:href><D:status>HTTP/1.1 404 N</D:status></D:response>"
            ),
            ConnectError,
            "does not exist on the server",
        ),
    ],
    ids=["html", "404", "401", "403", "500", "502", "ssh", "drop", "file", "404-inside"],
)
def test_a_url_that_is_no_webdav_folder(make, scripted, reply, kind, message):
    server = scripted(lambda request: reply)
    storage = make(server, username="u", password="s3cret")
    with pytest.raises(kind, match=message) as caught:
        storage.exists("a")
    assert server.url in str(caught.value)
    assert "[Errno" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert storage.pool.stats().size == 0


def test_a_url_of_a_file(make, dav):
    storage = make(dav)
    storage.save("file.txt", ContentFile(b""))
    url = f"{dav.options['url']}{storage.location}/file.txt"
    with pytest.raises(ConnectError):
        make(dav, url=url, location="").exists("a")


# TLS


@pytest.mark.parametrize("name", ["apache-tls", "nginx-certificate"])
def test_a_certificate_that_nobody_vouches_for(make, variant, name):
    with pytest.raises(ConnectError, match=r"TLS failed.*set the option verify") as caught:
        make(variant(name), verify=True).exists("a")
    assert "local issuer certificate" in str(caught.value)


@pytest.mark.parametrize("name", ["apache-tls", "apache-certificate", "nginx-certificate"])
def test_tls(make, variant, name):
    server = variant(name)
    everything(make(server))
    everything(make(server, verify=False))
    everything(make(server, verify=Path(server.options["verify"])))


def test_a_certificate_for_another_host(make, variant):
    server = variant("apache-tls")
    url = server.options["url"].replace("127.0.0.1", "127.0.0.2")
    with socket.socket() as taken, pytest.raises(ConnectError):
        taken.bind(("127.0.0.2", 0))
        make(server, url=url).exists("a")


@pytest.mark.parametrize("name", ["apache-certificate", "nginx-certificate"])
def test_without_the_client_certificate(make, variant, name):
    with pytest.raises(ConnectError, match=r"TLS failed|400"):
        make(variant(name), cert=None).exists("a")


def test_a_certificate_that_has_expired(make, tmp_path):
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue(days=-1))
    with ScriptedHTTP(MemoryDAV(), context=context) as server:
        with pytest.raises(ConnectError, match=r"TLS failed: certificate has expired") as caught:
            make(server, verify=authority.ca, username="u", password="s3cret").exists("a")
        assert "option verify" in str(caught.value)
        # Nothing was asked of it.
        assert server.requests == []


def test_a_certificate_file_that_is_missing(make, variant):
    server = variant("apache-certificate")
    for option in ("verify", "cert"):
        with pytest.raises(ConnectError, match=f"option {option} names /missing.pem") as caught:
            make(server, **{option: "/missing.pem"}).exists("a")
        assert "No such file" in str(caught.value)


def test_http_where_https_is_spoken(make, variant):
    server = variant("apache-tls")
    with pytest.raises(ConnectError, match=r"400|disconnected|reset"):
        make(server, url=server.url.replace("https", "http")).exists("a")


def test_https_where_http_is_spoken(make, scripted):
    server = scripted()
    with pytest.raises(ConnectError, match="TLS failed"):
        make(url=server.url.replace("http", "https"), connect_timeout=2).exists("a")


def test_sessions_share_one_ssl_context(make, variant, monkeypatch):
    """Making one takes longer than several requests."""
    made: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def count(*args: Any, **options: Any) -> ssl.SSLContext:
        made.append(create(*args, **options))
        return made[-1]

    server = variant("apache-tls")
    endpoint_module._ssl_context.cache_clear()
    monkeypatch.setattr(ssl, "create_default_context", count)
    storage = make(server)
    with storage.pool.connection() as one, storage.pool.connection() as two:
        assert one is not two
    storage.pool.drain()
    storage.exists("a")
    assert storage.pool.stats().connects == 3
    assert len(made) == 1
