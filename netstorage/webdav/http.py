"""HTTP on one connection: requests, answers, and what they mean (RFC 9110)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote

import httpx
from webdav4.client import Client

from ..exceptions import AuthenticationError, ConnectionLost, ProtocolError
from ..hidden import without_frames
from ..telemetry import at_work
from .multistatus import segments

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from _typeshed import WriteableBuffer

    class _Reads(Protocol):
        def readinto(self, buffer: WriteableBuffer, /) -> int: ...


CHUNK = 64 * 2**10
"""Bytes of an upload handed to the HTTP client at once."""
TRIES = {"MKCOL": 8, "MOVE": 8, "DELETE": 8}
"""How often a locked name (423) is tried: Go's server locks it while it makes or removes it."""

# A proxy or an Apache with mod_deflate would answer a range of the compressed body.
IDENTITY = {"Accept-Encoding": "identity"}

DONE = frozenset({200, 201, 204})
"""What says that a PUT, MKCOL or MOVE was done."""
DELETED = frozenset({200, 202, 204})

REFUSED = frozenset({301, 400, 403, 405, 409, 412})
"""What servers say to a DELETE or MOVE of a file that meets a collection. Others may be busy."""

ERRNO = {
    400: errno.EINVAL,
    403: errno.EACCES,
    404: errno.ENOENT,
    405: errno.ENOTSUP,
    409: errno.ENOENT,  # "an ancestor is missing" (RFC 4918, 9.7.1)
    410: errno.ENOENT,
    412: errno.EEXIST,
    413: errno.EFBIG,
    414: errno.ENAMETOOLONG,
    423: errno.EBUSY,
    501: errno.ENOTSUP,
    507: errno.ENOSPC,
}


class HTTP:
    """One HTTP connection, renewed by its client when it was lost.

    Args:
        client: The client; its base URL's path is quoted once more than the URL's (see endpoint).
        url: URL of the server's root, with a slash at the end.
        server: The server's name, for messages.
        timeout: Seconds of silence after which the server is given up, for messages.

    Attributes:
        closed: Whether the connection is of no further use.
        can_propfind: Whether the server answers PROPFIND, as far as is known.
        software: The ``Server`` header of the last answer.
    """

    def __init__(self, client: Client, url: httpx.URL, server: str, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._sockets: list[Any] = []
        self._in_tls = False
        self.url = url
        self.server = server
        self.closed = False
        self.can_propfind = True
        self.software = ""

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self._client.http.close()

    def abandon(self) -> None:
        """Close this process's end of the connection, and nothing else."""
        self.closed = True
        for sock in self._sockets:
            sock.close()

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        slash: bool = False,
        content: Any = None,
    ) -> httpx.Response:
        """Send a request and return its answer, without the body."""
        for _ in range(TRIES.get(method, 1)):
            with self.stream(method, path, headers, slash=slash, content=content) as response:
                pass
            if response.status_code != 423:
                break
        return response

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        slash: bool = False,
        content: Any = None,
    ) -> Iterator[httpx.Response]:
        """Send a request and give its answer to a block that may read the body.

        The session's only connection is busy with it until the block ends.
        """
        url = (
            self._client.join_url(quote_path(path), add_trailing_slash=slash) if path else self.url
        )
        sent = {**IDENTITY, **(headers or {})}
        with self._explained(), self._answer(method, url, sent, content) as response:
            self._remember_socket(response)
            self.software = response.headers.get("server", "")
            if response.status_code == 401:
                raise AuthenticationError(
                    f"{self.server} refused the credentials (401). Check the options username, "
                    "password, auth and token."
                )
            yield response
            if not response.is_stream_consumed:
                # A connection is used again only if the body was read; a long one is not worth it.
                for _ in islice(response.iter_raw(), 16):
                    pass

    @contextmanager
    def _answer(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: Any
    ) -> Iterator[httpx.Response]:
        """Send a request; once more, if the connection was kept open and broke without an answer.

        Servers close idle connections when they like, and a request may cross with that. None of
        ours does harm when it is repeated; where the first was done, the second's answer tells.
        """
        fresh = self._in_tls = False
        operation = at_work.get()

        def watch(event: str, info: object) -> None:
            nonlocal fresh
            if operation is not None and event == "http11.send_request_headers.started":
                operation.round_trips += 1
            fresh = fresh or event == "connection.connect_tcp.complete"
            self._in_tls = self._in_tls or event.endswith("start_tls.started")

        http = self._client.http
        request = http.build_request(
            method, url, content=content, headers=headers, extensions={"trace": watch}
        )
        response: httpx.Response | None = None
        try:
            response = http.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if fresh:
                raise
        if response is None:
            response = http.send(request, stream=True)
            if operation is not None:
                operation.reconnects += 1
            if method == "PUT" and response.status_code == 423:
                # Go's server keeps the first one locked until it notices that its connection ended:
                # the storage may try under another name.
                response.close()
                self.closed = True
                raise ConnectionLost(
                    f"the session with {self.server} was lost in an upload that is still locked"
                )
        with closing(response):
            yield response

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell the HTTP client's failures in our words."""
        try:
            yield
        except httpx.TimeoutException as error:
            self.closed = True
            raise TimeoutError(errno.ETIMEDOUT, f"{self.server} {self._late(error)}") from (
                without_frames(error)
            )
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            self.closed = True
            why = str(error)[:200] or type(error).__name__
            message = f"the session with {self.server} was lost: {why}"
            raise ConnectionLost(message) from without_frames(error)

    def _late(self, error: httpx.TimeoutException) -> str:
        """Tell what did not happen in time, and which option bounds it."""
        if isinstance(error, httpx.ConnectTimeout):
            what = "finish the TLS handshake" if self._in_tls else "accept a connection"
            return (
                f"did not {what} within {self._client.http.timeout.connect:g} s (connect_timeout)"
            )
        what = "take what was sent" if isinstance(error, httpx.WriteTimeout) else "go on"
        return f"did not {what} within {self._timeout:g} s (timeout)"

    def _remember_socket(self, response: httpx.Response) -> None:
        stream = response.extensions.get("network_stream")
        sock = stream.get_extra_info("socket") if stream is not None else None
        if sock is not None:
            self._sockets = [sock]

    def refusal(self, response: httpx.Response, path: str) -> OSError:
        """Make the error that a status stands for."""
        status = response.status_code
        said = f"the server answered {status} {response.reason_phrase[:200]}".rstrip()
        if response.is_redirect:
            target = response.request.url.join(response.headers.get("location", ""))
            where = f"{target.scheme}://{target.netloc.decode('ascii', 'replace')}{target.path}"
            return ProtocolError(
                f"{said} and points to {where}: redirects are not followed, set the option url to "
                "where the server is"
            )
        number = ERRNO.get(status, errno.EIO)
        creating = response.request.method in {"PUT", "MKCOL", "MOVE"}
        if is_too_long(path) and (creating or number in {errno.EINVAL, errno.EACCES, errno.EIO}):
            return OSError(errno.ENAMETOOLONG, f"the name is too long: {said}", path)
        if status in {405, 501} and not self.can_propfind:
            said += "; is the option url that of a WebDAV folder?"
        elif creating and status in {405, 501}:
            # Go's server says so whenever writing fails.
            said += "; it may be read-only or full"
        elif status == 405 and response.request.method == "PROPFIND":
            said += "; an index file may be in the way (Apache: set DirectoryIndex disabled)"
        elif number == errno.EIO:
            said += "; its log should tell why: a full or read-only disk, perhaps"
        return OSError(number, said, path)


class Body:
    """A request's body, from its beginning however often it is sent.

    Attributes:
        sent: How often its sending was begun: again after a lost connection, or a 401.
    """

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source = source
        self._size = size
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        self.sent += 1
        self._source.seek(0)
        readinto = cast("_Reads", self._source).readinto
        buffer = memoryview(bytearray(CHUNK))
        left = self._size
        while left:
            count = readinto(buffer[: min(CHUNK, left)])
            if not count:
                raise OSError(errno.EIO, f"the content ended {left} bytes before its end")
            left -= count
            yield bytes(buffer[:count])


def leads_to_slash(response: httpx.Response) -> bool:
    """Tell whether this is a redirect that only adds a collection's slash, as Apache's do.

    Behind a proxy it may name another host and prefix; nobody goes there.
    """
    if not response.has_redirect_location:
        return False
    asked = response.request.url
    target = asked.join(response.headers.get("location", "")).path
    if asked.path.endswith("/") or not target.endswith("/"):
        return False
    return segments(target)[-1:] == segments(asked.path)[-1:]


def quote_path(path: str) -> str:
    """Percent-encode a path, segment by segment.

    Raises:
        ValueError: A segment would lead elsewhere: servers resolve dots, quoted ones too.
    """
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{path!r} is no path below the root")
    return "/".join(quote(part, safe="", errors="surrogateescape") for part in parts)


def is_too_long(path: str) -> bool:
    """Tell whether a refusal may come from a name or path beyond what file systems take."""
    parts = path.encode("utf-8", "surrogateescape").split(b"/")
    return any(len(part) > 255 for part in parts) or sum(map(len, parts)) + len(parts) > 4000
