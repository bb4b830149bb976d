"""SSH servers that do what a test tells them, and a proxy that stops in the middle.

`Scripted` speaks real SSH (asyncssh) and SFTP frames made here. Left alone it is an honest server
with its files in memory. Its `script` sees each request first and may answer otherwise, late, or
not at all. Servers and proxies run on one event loop in one thread, of this process.
"""

from __future__ import annotations

import asyncio
import posixpath
import socket
import stat
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

import asyncssh
import paramiko
from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.packet import String

from netstorage import SFTPStorage
from netstorage.sftp import frames as w

T = TypeVar("T")

OPENSSH = {
    b"posix-rename@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
    b"hardlink@openssh.com": b"1",
    b"fsync@openssh.com": b"1",
    b"limits@openssh.com": b"1",
}
LIMITS = (262144, 261120, 261120, 1024)
"""OpenSSH's: packet, READ, WRITE, open handles."""
USERNAME, PASSWORD = "scripted", "correct horse battery staple"
NAMES = 100
"""Entries in one answer to READDIR, as OpenSSH gives them."""


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="scripted", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def stop(self) -> None:
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @staticmethod
    async def _cancel_all() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


# --- frames ---------------------------------------------------------------------------------------


def frame(kind: int, request_id: int, body: bytes = b"") -> bytes:
    return struct.pack(">IBI", 5 + len(body), kind, request_id) + body


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def status(request_id: int, code: int, message: bytes = b"scripted") -> bytes:
    return frame(w.STATUS, request_id, struct.pack(">I", code) + string(message) + string(b""))


def data(request_id: int, content: bytes) -> bytes:
    return frame(w.DATA, request_id, string(content))


def attributes(
    size: int | None = None, mode: int | None = None, times: tuple[int, int] | None = None
) -> bytes:
    flags = (size is not None) * 1 | (mode is not None) * 4 | (times is not None) * 8
    fields = struct.pack(">I", flags)
    if size is not None:
        fields += struct.pack(">Q", size)
    if mode is not None:
        fields += struct.pack(">I", mode)
    if times is not None:
        fields += struct.pack(">II", *times)
    return fields


def names(request_id: int, entries: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(string(name) + string(b"-rw " + name) + attrs for name, attrs in entries)
    return frame(w.NAME, request_id, struct.pack(">I", len(entries)) + body)


def version(number: int = 3, extensions: dict[bytes, bytes] | None = None) -> bytes:
    body = b"".join(string(name) + string(value) for name, value in (extensions or {}).items())
    return struct.pack(">IBI", 5 + len(body), w.VERSION, number) + body


class Request(NamedTuple):
    """A request as the server got it."""

    kind: int
    id: int
    body: bytes

    @property
    def strings(self) -> list[bytes]:
        """The first strings of the body: a path, a handle, two paths, an extension's name."""
        found, rest = [], self.body
        while len(rest) >= 4 and len(found) < 3:
            (length,) = struct.unpack_from(">I", rest)
            if length > len(rest) - 4:
                break
            found.append(rest[4 : 4 + length])
            rest = rest[4 + length :]
        return found

    @property
    def mode(self) -> int:
        """The permission bits at the end."""
        return int(struct.unpack(">I", self.body[-4:])[0])

    @property
    def name(self) -> str:
        """What the request is, for tests to compare."""
        if self.kind == w.EXTENDED:
            return self.strings[0].decode().partition("@")[0]
        return KINDS[self.kind]

    @property
    def length(self) -> int:
        """Bytes of data that a READ asks for, or a WRITE brings."""
        return int(struct.unpack_from(">I", self.body, 4 + len(self.strings[0]) + 8)[0])


KINDS = {
    w.OPEN: "OPEN",
    w.CLOSE: "CLOSE",
    w.READ: "READ",
    w.WRITE: "WRITE",
    w.LSTAT: "LSTAT",
    w.FSTAT: "FSTAT",
    w.SETSTAT: "SETSTAT",
    w.FSETSTAT: "FSETSTAT",
    w.OPENDIR: "OPENDIR",
    w.READDIR: "READDIR",
    w.REMOVE: "REMOVE",
    w.MKDIR: "MKDIR",
    w.RMDIR: "RMDIR",
    w.STAT: "STAT",
    w.RENAME: "RENAME",
}

Script = Callable[["Peer", Request], bytes | None]
"""Gives the bytes to answer with; None: the honest answer, b"": none yet."""


# --- the server -----------------------------------------------------------------------------------


class Login(asyncssh.SSHServer):
    """Lets `USERNAME` in with `PASSWORD`; notes who tried what."""

    def __init__(self, server: Scripted) -> None:
        self.server = server
        self.peer: Peer | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.conn = conn
        self.server.connections.append(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.ended.release()

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        self.server.attempts.append(("password", password))
        return (username, password) == (USERNAME, PASSWORD)

    def session_requested(self) -> Peer:
        return Peer(self.server, self.conn)


class Scripted:
    """A server on 127.0.0.1 with its files in memory.

    Args:
        loop: Where it runs.
        script: Sees every request first.
        extensions: What VERSION offers.
        limits: What ``limits@openssh.com`` answers.
        greeting: Sent instead of VERSION.
        subsystem: Whether SFTP can be started.
        login: Who may come in.
        options: More for `asyncssh.listen`.

    Attributes:
        files: Contents by path, without a slash in front.
        directories: Paths.
        links: Targets by path.
        modes: Permission bits where they were set.
        requests: What was asked for, on all connections.
        attempts: Logins that were tried.
        connections: Who came.
        ended: Released once for each connection that is gone.
    """

    key = asyncssh.generate_private_key("ssh-ed25519")

    def __init__(
        self,
        loop: Loop,
        script: Script | None = None,
        *,
        extensions: dict[bytes, bytes] = OPENSSH,
        limits: tuple[int, ...] = LIMITS,
        greeting: bytes | None = None,
        subsystem: bool = True,
        login: type[Login] = Login,
        host: str = "127.0.0.1",
        **options: Any,
    ) -> None:
        self.loop = loop
        self.script = script
        self.extensions = extensions
        self.limits = limits
        self.greeting = greeting
        self.subsystem = subsystem
        self.files: dict[bytes, bytearray] = {}
        self.directories: set[bytes] = {b""}
        self.links: dict[bytes, bytes] = {}
        self.modes: dict[bytes, int] = {}
        self.free = 2**40
        self.requests: list[Request] = []
        self.attempts: list[tuple[str, str]] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.ended = threading.Semaphore(0)
        self._storages: list[SFTPStorage] = []
        options.setdefault("server_host_keys", [self.key])
        self._acceptor = loop.run(self._listen(host, login, options))
        self.port = self._acceptor.get_port()

    async def _listen(
        self, host: str, login: type[Login], options: dict[str, Any]
    ) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            host, 0, server_factory=lambda: login(self), encoding=None, config=None, **options
        )

    def stop(self) -> None:
        for storage in self._storages:
            storage.pool.close()
        self.loop.run(self._close())

    async def abort(self) -> None:
        """Break the connections that are there."""
        for connection in self.connections:
            connection.abort()

    async def _close(self) -> None:
        self._acceptor.close()
        await self.abort()
        await self._acceptor.wait_closed()

    @property
    def host_key(self) -> str:
        return self.key.export_public_key().decode().strip()

    @property
    def options(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": USERNAME,
            "password": PASSWORD,
            "host_key": self.host_key,
            "timeout": 20,
        }

    def storage(self, **options: Any) -> SFTPStorage:
        """A storage on this server; its pool is closed when the server stops."""
        storage = SFTPStorage(**{**self.options, **options})
        self._storages.append(storage)
        return storage

    def asked(self) -> list[str]:
        """Names of the requests so far, without those that start a session."""
        return [r.name for r in list(self.requests) if r.name != "limits"]

    def put(self, path: str, content: bytes = b"") -> None:
        """Make a file and its directories."""
        name = path.encode("utf-8", "surrogateescape")
        self.files[name] = bytearray(content)
        while name := posixpath.dirname(name):
            self.directories.add(name)


class Peer(asyncssh.SSHServerSession):
    """One client's SFTP channel."""

    def __init__(self, server: Scripted, connection: asyncssh.SSHServerConnection) -> None:
        self.server = server
        self.connection = connection
        self._buffer = b""
        self._handles: dict[bytes, tuple[bytes, list[bytes]]] = {}
        self._count = 0

    def connection_made(self, chan: asyncssh.SSHServerChannel) -> None:
        self.channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp" and self.server.subsystem

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            (length,) = struct.unpack_from(">I", self._buffer)
            if len(self._buffer) < 4 + length:
                return
            whole, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
            self._received(whole)

    def _received(self, whole: bytes) -> None:
        if whole[0] == w.INIT:
            greeting = self.server.greeting
            self.send(version(3, self.server.extensions) if greeting is None else greeting)
            return
        request = Request(whole[0], struct.unpack_from(">I", whole, 1)[0], whole[5:])
        self.server.requests.append(request)
        script = self.server.script
        answer = script(self, request) if script else None
        self.send(self.honest(request) if answer is None else answer)

    def send(self, data: bytes) -> None:
        if data and not self.channel.is_closing():
            self.channel.write(data)

    async def flood(self, size: int) -> None:
        """Send zeros, whatever the client has granted."""
        for _ in range(size // 2**15):
            self.channel.send_packet(MSG_CHANNEL_DATA, String(bytes(2**15)))

    def hang_up(self) -> bytes:
        """End the connection at once; for scripts to return."""
        self.connection.abort()
        return b""

    def end(self) -> bytes:
        """Close the channel, as when the SFTP program dies."""
        self.channel.exit(1)
        return b""

    # What an honest server says.

    def honest(self, request: Request) -> bytes:
        try:
            return getattr(self, f"_{request.name.lower().replace('-', '_')}")(request)
        except _Refusal as refusal:
            return status(request.id, refusal.code)

    def _path(self, path: bytes, *, follow: bool = True) -> bytes:
        clean = posixpath.normpath(path).lstrip(b"/")
        clean = b"" if clean == b"." else clean
        for _ in range(8):
            if not follow or clean not in self.server.links:
                return clean
            parent = posixpath.dirname(clean)
            clean = posixpath.normpath(posixpath.join(parent, self.server.links[clean]))
        raise _Refusal(w.FAILURE)

    def _attributes(self, path: bytes) -> bytes:
        server = self.server
        if path in server.links:
            return attributes(len(server.links[path]), stat.S_IFLNK | 0o777, (1, 2))
        if path in server.directories:
            return attributes(4096, stat.S_IFDIR | server.modes.get(path, 0o755), (1, 2))
        if path not in server.files:
            raise _Refusal(w.NO_SUCH_FILE)
        mode = stat.S_IFREG | server.modes.get(path, 0o644)
        return attributes(len(server.files[path]), mode, (1, 2))

    def _handle(self, path: bytes, entries: list[bytes] | None = None) -> bytes:
        self._count += 1
        handle = b"handle-%d" % self._count
        self._handles[handle] = (path, entries or [])
        return string(handle)

    def _opened(self, request: Request) -> bytes:
        if request.strings[0] not in self._handles:
            raise _Refusal(w.FAILURE)
        return self._handles[request.strings[0]][0]

    def _open(self, request: Request) -> bytes:
        path = self._path(request.strings[0])
        flags, with_mode = struct.unpack_from(">II", request.body, 4 + len(request.strings[0]))
        server = self.server
        if flags & w.O_CREAT:
            if posixpath.dirname(path) not in server.directories:
                raise _Refusal(w.NO_SUCH_FILE)
            if path in server.files or path in server.directories:
                raise _Refusal(w.FAILURE)
            server.files[path] = bytearray()
            if with_mode & 4:
                server.modes[path] = request.mode
        elif path not in server.files:
            raise _Refusal(w.FAILURE if path in server.directories else w.NO_SUCH_FILE)
        return frame(w.HANDLE, request.id, self._handle(path))

    def _close(self, request: Request) -> bytes:
        self._opened(request)
        del self._handles[request.strings[0]]
        return status(request.id, w.OK)

    def _read(self, request: Request) -> bytes:
        content = self.server.files[self._opened(request)]
        offset, length = struct.unpack(">QI", request.body[-12:])
        piece = bytes(content[offset : offset + length])
        return data(request.id, piece) if piece else status(request.id, w.EOF)

    def _write(self, request: Request) -> bytes:
        content = self.server.files[self._opened(request)]
        at = 4 + len(request.strings[0])
        (offset,) = struct.unpack_from(">Q", request.body, at)
        piece = request.body[at + 12 :]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(piece)] = piece
        return status(request.id, w.OK)

    def _lstat(self, request: Request) -> bytes:
        path = self._path(request.strings[0], follow=False)
        return frame(w.ATTRS, request.id, self._attributes(path))

    def _stat(self, request: Request) -> bytes:
        return frame(w.ATTRS, request.id, self._attributes(self._path(request.strings[0])))

    def _fstat(self, request: Request) -> bytes:
        return frame(w.ATTRS, request.id, self._attributes(self._opened(request)))

    def _setstat(self, request: Request) -> bytes:
        self.server.modes[self._path(request.strings[0])] = request.mode
        return status(request.id, w.OK)

    def _fsetstat(self, request: Request) -> bytes:
        self.server.modes[self._opened(request)] = request.mode
        return status(request.id, w.OK)

    def _opendir(self, request: Request) -> bytes:
        path = self._path(request.strings[0])
        server = self.server
        if path not in server.directories:
            raise _Refusal(w.FAILURE if path in server.files else w.NO_SUCH_FILE)
        everything = [*server.files, *server.directories, *server.links]
        entries = [p for p in everything if p and posixpath.dirname(p) == path]
        return frame(w.HANDLE, request.id, self._handle(path, entries))

    def _readdir(self, request: Request) -> bytes:
        self._opened(request)
        entries = self._handles[request.strings[0]][1]
        if not entries:
            return status(request.id, w.EOF)
        some = entries[:NAMES]
        del entries[:NAMES]
        return names(
            request.id, [(posixpath.basename(path), self._attributes(path)) for path in some]
        )

    def _remove(self, request: Request) -> bytes:
        path = self._path(request.strings[0], follow=False)
        if path in self.server.directories:
            raise _Refusal(w.FAILURE)
        if path not in self.server.files and path not in self.server.links:
            raise _Refusal(w.NO_SUCH_FILE)
        self.server.files.pop(path, None)
        self.server.links.pop(path, None)
        return status(request.id, w.OK)

    def _mkdir(self, request: Request) -> bytes:
        path = self._path(request.strings[0])
        if posixpath.dirname(path) not in self.server.directories:
            raise _Refusal(w.NO_SUCH_FILE)
        if path in self.server.directories or path in self.server.files:
            raise _Refusal(w.FAILURE)
        self.server.directories.add(path)
        return status(request.id, w.OK)

    def _rmdir(self, request: Request) -> bytes:
        path = self._path(request.strings[0])
        inside = [*self.server.files, *self.server.directories]
        if any(p and posixpath.dirname(p) == path for p in inside):
            raise _Refusal(w.FAILURE)
        self.server.directories.remove(path)
        return status(request.id, w.OK)

    def _rename(self, request: Request, names: list[bytes] | None = None) -> bytes:
        source, target = (self._path(p) for p in names or request.strings[:2])
        server = self.server
        if source not in server.files:
            raise _Refusal(w.NO_SUCH_FILE)
        taken = target in server.directories or (names is None and target in server.files)
        if taken or posixpath.dirname(target) not in server.directories:
            raise _Refusal(w.FAILURE)
        server.files[target] = server.files.pop(source)
        return status(request.id, w.OK)

    def _posix_rename(self, request: Request) -> bytes:
        return self._rename(request, request.strings[1:])

    def _hardlink(self, request: Request) -> bytes:
        source, target = (self._path(p) for p in request.strings[1:])
        if source not in self.server.files or target in self.server.files:
            raise _Refusal(w.FAILURE)
        self.server.files[target] = self.server.files[source]
        return status(request.id, w.OK)

    def _fsync(self, request: Request) -> bytes:
        return status(request.id, w.OK)

    def _statvfs(self, request: Request) -> bytes:
        blocks = self.server.free // 4096
        numbers = (4096, 4096, 2**20, blocks, blocks, 2**20, 2**19, 2**19, 7, 0, 255)
        return frame(w.EXTENDED_REPLY, request.id, struct.pack(">11Q", *numbers))

    def _limits(self, request: Request) -> bytes:
        fields = struct.pack(f">{len(self.server.limits)}Q", *self.server.limits)
        return frame(w.EXTENDED_REPLY, request.id, fields)


class _Refusal(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


# --- scripts --------------------------------------------------------------------------------------


def on(name: str, action: Script | bytes | int, *, nth: int = 1, each: bool = False) -> Script:
    """A script for one request: the first, the ``nth``, or each one of its kind.

    Args:
        name: Such as ``"WRITE"`` or ``"posix-rename"``.
        action: A script; or the code of a status; or bytes to send.
        nth: Which one.
        each: All of them.
    """
    seen: dict[str, int] = defaultdict(int)

    def script(peer: Peer, request: Request) -> bytes | None:
        seen[request.name] += 1
        if request.name != name or not (each or seen[name] == nth):
            return None
        if isinstance(action, int):
            return status(request.id, action)
        return action if isinstance(action, bytes) else action(peer, request)

    return script


def silent(peer: Peer, request: Request) -> bytes:
    """Never answer."""
    return b""


def hang_up(peer: Peer, request: Request) -> bytes:
    return peer.hang_up()


class Held:
    """A script that keeps the answers to one kind of request back until it is let go."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: list[tuple[Peer, bytes]] = []
        self._open = False

    def __call__(self, peer: Peer, request: Request) -> bytes | None:
        if self._open or request.name != self._name:
            return None
        self._held.append((peer, peer.honest(request)))
        return b""

    @property
    def count(self) -> int:
        return len(self._held)

    def release(self, server: Scripted) -> None:
        """Send what was held, and hold no more."""
        self._open = True
        server.loop.loop.call_soon_threadsafe(self._send)

    def _send(self) -> None:
        for peer, answer in self._held:
            peer.send(answer)


class Flights:
    """A script that answers a flight only once all its requests have come.

    A client that asked for less before it waits would never get on; one that asks for more is
    seen in `extra`.

    Args:
        sizes: How many requests each flight has.
        turn: Puts the answers of a flight in another order.
    """

    def __init__(self, *sizes: int, turn: Callable[[list[bytes]], Any] | None = None) -> None:
        self._sizes = list(sizes)
        self._turn = turn
        self._answers: list[bytes] = []
        self.flights: list[list[str]] = [[]]
        self.extra: list[str] = []

    def __call__(self, peer: Peer, request: Request) -> bytes | None:
        if request.name == "limits":
            return None
        if not self._sizes:
            self.extra.append(request.name)
            return None
        self.flights[-1].append(request.name)
        self._answers.append(peer.honest(request))
        if len(self._answers) < self._sizes[0]:
            return b""
        answers, self._answers = self._answers, []
        self._sizes.pop(0)
        if self._sizes:
            self.flights.append([])
        if self._turn is not None:
            self._turn(answers)
        return b"".join(answers)


# --- paramiko's server ----------------------------------------------------------------------------


class Stepwise(paramiko.ServerInterface):
    """paramiko's server, for what asyncssh's cannot: second factors, and steps that take for ever.

    Args:
        factors: Login methods that must all succeed, in this order.
        stalls: Whether the request for the subsystem is never answered.
    """

    key = paramiko.ECDSAKey.generate()

    def __init__(self, factors: tuple[str, ...] = ("password",), *, stalls: bool = False) -> None:
        self._factors = factors
        self._stalls = stalls
        self._released = threading.Event()
        self._done: list[str] = []
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self.key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer)
            self._done.clear()
            self._transports.append(transport)
            transport.start_server(event=threading.Event(), server=self)

    def stop(self) -> None:
        self._released.set()
        # Closing alone does not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for transport in self._transports:
            transport.close()
            transport.join(5)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": USERNAME,
            "host_key": f"{self.key.get_name()} {self.key.get_base64()}",
            "timeout": 5,
        }

    def get_allowed_auths(self, username: str) -> str:
        return self._factors[len(self._done)]

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._check("publickey")

    def check_auth_password(self, username: str, password: str) -> int:
        return self._check("password") if password == PASSWORD else paramiko.AUTH_FAILED

    def _check(self, factor: str) -> int:
        if self._factors[len(self._done)] != factor:
            return paramiko.AUTH_FAILED
        self._done.append(factor)
        left = len(self._done) < len(self._factors)
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL if left else paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        if self._stalls:
            self._released.wait()
        return super().check_channel_subsystem_request(channel, name)


# --- the proxy ------------------------------------------------------------------------------------


class Proxy:
    """Forwards TCP connections, until it is told to stop.

    Args:
        loop: Where it runs.
        port: Where to.
        down: Bytes from the server after which it keeps silent, without closing anything.
        closes: Whether it closes everything then.
        host: Where it listens.
    """

    def __init__(
        self,
        loop: Loop,
        port: int,
        *,
        down: int | None = None,
        closes: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        self.loop = loop
        self._to = port
        self._down = down
        self._closes = closes
        self._gates: list[asyncio.Event] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = loop.run(self._listen(host))
        self.port = self._server.sockets[0].getsockname()[1]
        self.down = 0
        """Bytes that came from the server and went on."""

    async def _listen(self, host: str) -> asyncio.Server:
        # A small buffer, so that a client notices soon that nobody reads.
        listener = socket.create_server((host, 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        return await asyncio.start_server(self._accept, sock=listener, limit=2**16)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, to_writer]
        gate = asyncio.Event()
        gate.set()
        self._gates.append(gate)
        for coroutine in (
            self._pump(reader, to_writer, gate, None),
            self._pump(to_reader, writer, gate, self._down or sys.maxsize),
        ):
            task = asyncio.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        limit: int | None,
    ) -> None:
        try:
            while piece := await reader.read(2**14):
                if limit is not None:
                    piece = piece[: max(0, limit - self.down)]
                    self.down += len(piece)
                await gate.wait()
                writer.write(piece)
                await writer.drain()
                if self._closes and limit == self.down:
                    break
            writer.close()
        except OSError:
            writer.close()

    def freeze(self) -> None:
        """Read and forward nothing any more, on the connections that are there."""
        for gate in self._gates:
            self.loop.loop.call_soon_threadsafe(gate.clear)

    def cut(self) -> None:
        """Break the connections that are there."""

        async def abort() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self.loop.run(abort())

    def stop(self) -> None:
        async def close() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()

        self.loop.run(close())


class Deaf:
    """A listener that says what it is told to everyone who connects, and no more.

    Args:
        loop: Where it runs.
        says: The bytes.
        closes: Whether it closes the connection then.
    """

    def __init__(self, loop: Loop, says: bytes = b"", *, closes: bool = False) -> None:
        self.loop = loop
        self._says = says
        self._closes = closes
        self._writers: list[asyncio.StreamWriter] = []
        self._server = loop.run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(self._says)
        if self._closes:
            writer.close()

    def stop(self) -> None:
        async def close() -> None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()

        self.loop.run(close())
