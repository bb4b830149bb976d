"""HTTP servers in a thread that answer as a test tells them, and remember what they were asked.

A script is a function from a `Request` to what is done with it: a `Reply`; bytes, sent as they are
before the connection is closed; `DROP` or `SILENCE`; or a `Tunnel`. `MemoryDAV` is a script that
behaves, for tests that misbehave in one point, and `Forward` one that passes on to a real server.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers.base import Server


@dataclass
class Request:
    """One request, as it came over the wire."""

    connection: int
    """Which connection it came by: 1 is the first."""
    method: str
    target: str
    headers: dict[str, str]
    """By names in lower case."""
    version: str
    """``HTTP/1.1``, say."""
    body: bytes = b""
    chunked: bool = False

    @property
    def path(self) -> str:
        """The target's path, decoded."""
        return unquote(urlsplit(self.target).path)

    @property
    def destination(self) -> str:
        """Where a MOVE leads, as the path it has."""
        return unquote(urlsplit(self.headers["destination"]).path)


@dataclass
class Reply:
    """An answer.

    Attributes:
        status: The HTTP status.
        headers: Headers; Content-Length is added unless it is here or `length` is False.
        body: The content.
        close: Close the connection afterwards, without having said so.
        cut: Close it after so many bytes of the body.
        length: Whether to tell the length; without, the answer ends with the connection.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    close: bool = False
    cut: int | None = None
    length: bool = True


@dataclass
class Tunnel:
    """The answer to CONNECT: pass bytes to and fro."""

    host: str
    port: int


DROP = object()
"""Close the connection without an answer."""
SILENCE = object()
"""Keep the connection open without an answer, until the server stops."""

Script = Callable[[Request], object]


class ScriptedHTTP:
    """A server on 127.0.0.1 for a `with` block.

    Args:
        script: Decides the answers.
        early: Asked when a request's head is there, before the body is read; None: read on. After
            an early answer the connection is closed.
        context: Speak TLS.
    """

    def __init__(
        self,
        script: Script,
        *,
        early: Script | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.early = early
        self.requests: list[Request] = []
        self.failures: list[BaseException] = []
        self._context = context
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count(1)
        self.connections = 0
        """How many connections were accepted."""

    @property
    def url(self) -> str:
        """The URL of a folder that `MemoryDAV` serves by default."""
        return f"{'https' if self._context else 'http'}://{self.host}:{self.port}/dav/"

    def __enter__(self) -> ScriptedHTTP:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        if self.failures and exc_info[0] is None:
            raise self.failures[0]

    def methods(self) -> list[str]:
        """The methods of the requests so far."""
        return [request.method for request in self.requests]

    def forget(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # Heads and bodies are sent one after the other: the second would wait for an ACK.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._start(self._serve, connection, self.connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            # A client that goes away in the middle is part of many tests.
            with contextlib.suppress(OSError), self._wrapped(connection) as wrapped:
                with self._lock:
                    self._open.add(wrapped)
                try:
                    with wrapped.makefile("rb") as stream:
                        while self._answer(wrapped, stream, number):
                            pass
                finally:
                    with self._lock:
                        self._open.discard(wrapped)
        except BaseException as error:
            self.failures.append(error)

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        if self._context is None:
            return connection
        try:
            return self._context.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()
            raise

    def _answer(self, connection, stream, number: int) -> bool:
        """Serve one request; False: the connection ends."""
        line = stream.readline()
        if not line:
            return False
        words = line.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return False
        method, target, version = words
        headers = {}
        for each in iter(stream.readline, b"\r\n"):
            if not each:
                return False
            name, _, value = each.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        request = Request(number, method, target, headers, version)
        done = self.early(request) if self.early else None
        if done is not None:
            self.requests.append(request)
            self._do(connection, stream, request, done)
            # As careful servers do: a reset would take the answer away from the client.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            return False
        if headers.get("transfer-encoding") == "chunked":
            request.chunked = True
            request.body = b"".join(_chunks(stream))
        else:
            length = int(headers.get("content-length", 0))
            request.body = stream.read(length)
            if len(request.body) < length:
                return False
        self.requests.append(request)
        return self._do(connection, stream, request, self.script(request))

    def _do(self, connection, stream, request: Request, done: object) -> bool:
        if done is DROP:
            return False
        if done is SILENCE:
            self._stopping.wait()
            return False
        if isinstance(done, bytes):
            connection.sendall(done)
            return False
        if isinstance(done, Tunnel):
            self._tunnel(connection, stream, done)
            return False
        assert isinstance(done, Reply), done
        if done.status == 401:
            done.headers.setdefault("WWW-Authenticate", 'Basic realm="test"')
        headers = dict(done.headers)
        if done.length and done.status not in {204, 304}:
            headers.setdefault("Content-Length", str(len(done.body)))
        head = [f"HTTP/1.1 {done.status} {http.client.responses.get(done.status, '')}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
        if request.method != "HEAD":
            connection.sendall(memoryview(done.body)[: done.cut])
        ended = done.close or done.cut is not None
        return not ended and (done.length or request.method == "HEAD")

    def _tunnel(self, client: socket.socket, stream, tunnel: Tunnel) -> None:
        with socket.create_connection((tunnel.host, tunnel.port)) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(server.recv, client), daemon=True)
            back.start()
            _pour(stream.read1, server)
            back.join()


def _pour(read: Callable[[int], bytes], to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := read(65536):
            to.sendall(data)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)


def _chunks(stream) -> Iterator[bytes]:
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()


# Scripts


def response(href: str, *properties: str, status: str = "HTTP/1.1 200 OK") -> str:
    """A response element with one propstat."""
    return (
        f"<D:response><D:href>{escape(href)}</D:href><D:propstat><D:prop>{''.join(properties)}"
        f"</D:prop><D:status>{status}</D:status></D:propstat></D:response>"
    )


def multistatus(*responses: str) -> Reply:
    """An answer to PROPFIND."""
    xml = f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{"".join(responses)}</D:multistatus>'
    return Reply(207, {"Content-Type": "application/xml"}, xml.encode())


COLLECTION = "<D:resourcetype><D:collection/></D:resourcetype>"


class MemoryDAV:
    """A WebDAV server's behaviour, with files in memory.

    Attributes:
        files: Content by decoded path; ``/dav/a.txt``.
        folders: Decoded paths without the last slash.

    Args:
        files: Content by name below the root.
        root: The root's path, without the last slash.
        careful: Refuse to delete a collection with Depth 0, and to move a file onto one, as Apache
            and nginx do; rclone does neither.
        name: Its Server header; None: it has none.
    """

    def __init__(
        self,
        files: dict[str, bytes] | None = None,
        *,
        root: str = "/dav",
        careful: bool = True,
        name: str | None = None,
    ) -> None:
        self.root = root
        self.careful = careful
        self.name = name
        self.files = {f"{root}/{name}": data for name, data in (files or {}).items()}
        self.folders = {root}

    def __call__(self, request: Request) -> Reply:
        path = request.path.rstrip("/")
        method = getattr(self, f"_{request.method.lower()}", None)
        reply: Reply = method(request, path) if method else Reply(405)
        if self.name is not None:
            reply.headers["Server"] = self.name
        return reply

    def etag(self, path: str) -> str:
        return f'"{hash(self.files[path]) & 0xFFFFFFFF:x}"'

    def _response(self, path: str) -> str:
        if path in self.folders:
            return response(quote(path) + "/", COLLECTION)
        return response(
            quote(path),
            "<D:resourcetype/>",
            f"<D:getcontentlength>{len(self.files[path])}</D:getcontentlength>",
            f"<D:getetag>{escape(self.etag(path))}</D:getetag>",
            f"<D:getlastmodified>{formatdate(0, usegmt=True)}</D:getlastmodified>",
        )

    def _propfind(self, request: Request, path: str) -> Reply:
        if path not in self.folders and path not in self.files:
            return Reply(404)
        below = []
        if request.headers.get("depth") != "0":
            every = sorted({*self.files, *self.folders})
            below = [each for each in every if each != path and each.rpartition("/")[0] == path]
        return multistatus(*map(self._response, [path, *below]))

    def _get(self, request: Request, path: str) -> Reply:
        if path not in self.files:
            return Reply(404)
        data = self.files[path]
        headers = {"ETag": self.etag(path), "Last-Modified": formatdate(0, usegmt=True)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if wanted is None:
            return Reply(200, headers, data)
        start = int(wanted[1])
        stop = min(int(wanted[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return Reply(416, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return Reply(206, headers, data[start:stop])

    _head = _get

    def _put(self, request: Request, path: str) -> Reply:
        if path.rpartition("/")[0] not in self.folders:
            return Reply(409)
        new = path not in self.files
        self.files[path] = request.body
        return Reply(201 if new else 204)

    def _mkcol(self, request: Request, path: str) -> Reply:
        if path in self.folders or path in self.files:
            return Reply(405)
        if path.rpartition("/")[0] not in self.folders:
            return Reply(409)
        self.folders.add(path)
        return Reply(201)

    def _move(self, request: Request, path: str) -> Reply:
        target = request.destination
        if path not in self.files:
            return Reply(404)
        taken = target in self.files or target in self.folders
        if taken and request.headers.get("overwrite") == "F":
            return Reply(412)
        if target in self.folders:
            if self.careful:
                return Reply(409)
            self._remove(target)
        self.files[target] = self.files.pop(path)
        return Reply(204 if taken else 201)

    def _delete(self, request: Request, path: str) -> Reply:
        if path not in self.files and path not in self.folders:
            return Reply(404)
        if path in self.folders and request.headers.get("depth") == "0" and self.careful:
            return Reply(400)
        self._remove(path)
        return Reply(204)

    def _remove(self, path: str) -> None:
        for each in {*self.files, *self.folders}:
            if f"{each}/".startswith(f"{path}/"):
                self.files.pop(each, None)
                self.folders.discard(each)


class Forward:
    """Passes requests on to a real server, which sees the Host that the client asked for."""

    def __init__(self, server: Server) -> None:
        self._address = (server.host, server.port)

    def __call__(self, request: Request) -> Reply:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name != "connection":
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            answer = connection.getresponse()
            body = answer.read()
        dropped = {"connection", "transfer-encoding", "keep-alive"}
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in dropped}
        # HEAD's Content-Length stands for a body that is not here; where there is none, none comes.
        tells = request.method != "HEAD" or "content-length" in {k.lower() for k in headers}
        reply = Reply(answer.status, headers, body)
        if not tells:
            reply.length = False
        return reply


def instead(script: Script, **others: object) -> Script:
    """A script that does something else for some methods.

    Args:
        script: Asked for all other methods, and when a function in `others` returns None.
        others: By method: what is done, or a function from the request to that.
    """

    def changed(request: Request) -> object:
        done = others.get(request.method)
        if done is not None and not isinstance(done, (Reply, bytes)) and callable(done):
            done = done(request)
        return script(request) if done is None else done

    return changed
